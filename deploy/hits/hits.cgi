#!/bin/sh
# One line for each request: the count from the backend, who serves, who asks, and that the secret is there.
printf 'Content-Type: text/plain\r\n\r\n'
echo "hit $(echo hit | nc cache 6379), served by $(hostname) to $REMOTE_ADDR," \
  "with a token of $(wc -c < /run/secrets/token) bytes"
