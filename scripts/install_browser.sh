#!/usr/bin/env bash
# Debian's Chromium, with which tests/tools/test_report_in_browser.py looks at the page that tools.report writes. Installs where
# it is missing, apt-get is there and the user is root. It never fails: without a browser the test skips and says so.
set -u
for name in chromium chromium-browser google-chrome google-chrome-stable; do
  if path=$(command -v "$name"); then
    echo "browser: $path"
    exit 0
  fi
done
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "no browser, and none installed: that takes root and apt-get. The test of the report's page will skip." >&2
  exit 0
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive
options=(-o Acquire::Retries=1 -o Acquire::http::Timeout=30 -o Acquire::https::Timeout=30 -o DPkg::Lock::Timeout=60)
echo "installing chromium by apt-get ..."
if timeout 120 apt-get "${options[@]}" update >"$log" 2>&1 \
  && timeout 600 apt-get "${options[@]}" install --yes --no-install-recommends chromium >>"$log" 2>&1; then
  echo "browser: $(command -v chromium)"
else
  echo "chromium was not installed; the test of the report's page will skip. apt-get's last lines:" >&2
  tail -n 5 "$log" >&2
fi
exit 0
