#!/usr/bin/env bash
# The peer's name for: python scripts/download.py cyclegan_dataset NAME
exec "${PYTHON:-python}" "$(dirname "$0")/../scripts/download.py" cyclegan_dataset "$@"
