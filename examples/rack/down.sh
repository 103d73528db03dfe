#!/bin/sh
# Take down the rack in $RACK: its machines, BMCs and switch, and then the folder.
set -u
: "${RACK:?the folder of the rack}"
[ -f "$RACK/site-layout.json" ] || { echo "There is no rack in $RACK." >&2; exit 1; }
pids=$(cat "$RACK"/node-*/bmc.pid "$RACK"/node-*/qemu.pid "$RACK"/switch/*.pid 2> /dev/null)
kill $pids 2> /dev/null
for pid in $pids; do
  tries=0
  while kill -0 "$pid" 2> /dev/null && [ $tries -lt 100 ]; do sleep 0.05; tries=$((tries + 1)); done
done
for port in "$RACK"/node-*/machine; do (. "$port" && ip link del "$PORT" 2> /dev/null); done
rm -rf "$RACK"
