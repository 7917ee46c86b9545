#!/usr/bin/env bash
# The peer's name for: python scripts/download.py pix2pix_dataset NAME
exec "${PYTHON:-python}" "$(dirname "$0")/../scripts/download.py" pix2pix_dataset "$@"
