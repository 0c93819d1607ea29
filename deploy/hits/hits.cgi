#!/bin/sh
# One line for each request: the count from the backend, who serves, who asks, and that the secret is there.
printf 'Content-Type: text/plain\r\n\r\n'
client=${REMOTE_ADDR#*ffff:} # an IPv4 address as a server that also speaks IPv6 sees it: [::ffff:192.0.2.1]
echo "hit $(echo hit | nc cache 6379), served by $(hostname) to ${client%]}," \
  "with a token of $(wc -c < /run/secrets/token) bytes"
