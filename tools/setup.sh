#!/bin/sh
# A virtual environment with the host, the pack and all that its tests need; Chromium from the system's packages.
set -eu
cd "$(dirname "$0")/.."
VENV=.venv
[ -x "$VENV/bin/python" ] || "${PYTHON:-python3}" -m venv "$VENV"
PIP="$VENV/bin/python -m pip install --quiet --disable-pip-version-check"
$PIP torch==2.11.0 torchvision==0.26.0 torchaudio==2.11.0
"$VENV/bin/python" tools/host.py
COMFY="${COMFYUI_PATH:-.host/ComfyUI}"
$PIP -r "$COMFY/requirements.txt"
$PIP -e ".[dev]"
"$VENV/bin/python" -P -m attractor_pack.tools.models
if ! command -v chromium >/dev/null 2>&1 && command -v apt-get >/dev/null 2>&1; then
    if [ "$(id -u)" = 0 ]; then
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null
    else
        echo "The browser tests need Chromium: sudo apt-get install chromium" >&2
    fi
fi
