#!/usr/bin/env bash
# The peer's name for: python scripts/download.py pix2pix_model NAME
exec "${PYTHON:-python}" "$(dirname "$0")/../scripts/download.py" pix2pix_model "$@"
