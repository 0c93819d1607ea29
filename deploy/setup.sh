#!/usr/bin/env bash
# Installs what the demo, the tests and the checks need, once: system tools through apt, Python packages
# into .venv. Running it again costs a fraction of a second.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(docker.io etcd-server etcd-client iproute2 nftables iptables busybox-static iperf3 tcpdump procps
  util-linux python3-venv)
missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
done
if ((${#missing[@]})); then
  if [[ $(id -u) != 0 ]]; then
    echo "these Debian packages are missing, and only root can install them: ${missing[*]}" >&2
    echo "run: sudo apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 1
  fi
  echo "installing: ${missing[*]}" >&2
  # The lab starts engines and etcd of its own; Debian's units must not start a second pair on this machine.
  policy=/usr/sbin/policy-rc.d
  if [[ ! -e $policy ]]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
  fi
  log=$(mktemp)
  export DEBIAN_FRONTEND=noninteractive
  if ! { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
    cat "$log" >&2
    echo "apt could not install: ${missing[*]} (its output is above)" >&2
    exit 1
  fi
  rm -f "$log"
fi

stamp=.venv/.installed
if [[ ! -e $stamp ]] || ! sha256sum --status -c "$stamp" 2>/dev/null; then
  echo "installing the Python packages into .venv" >&2
  [[ -x .venv/bin/python ]] || python3 -m venv .venv
  .venv/bin/python -m pip install -q --disable-pip-version-check -e '.[dev]'
  sha256sum pyproject.toml setup.py >"$stamp"
fi
