#!/bin/sh
# Answers each connection with the next number.
hits=$(($(cat /tmp/hits 2>/dev/null || echo 0) + 1))
echo "$hits" > /tmp/hits
echo "$hits"
