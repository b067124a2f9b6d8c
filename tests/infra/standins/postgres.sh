#!/bin/sh
# What compose.yaml uses of the entry point of the official image: a database with a user and a password, made once.
set -eu
bin=$(echo /usr/lib/postgresql/*/bin)
data=/var/lib/postgresql/data/pgdata
if [ ! -s "$data/PG_VERSION" ]; then
  install -d -o postgres -g postgres -m 0700 "$data"
  echo "$POSTGRES_PASSWORD" > /run/password
  chown postgres /run/password
  setpriv --reuid postgres --regid postgres --clear-groups \
    "$bin/initdb" -D "$data" -U "$POSTGRES_USER" --pwfile=/run/password --auth=scram-sha-256 --encoding=UTF8 --locale=C.UTF-8
  rm /run/password
  echo "host all all all scram-sha-256" >> "$data/pg_hba.conf"
  printf "create database %s;\n" "$POSTGRES_DB" | setpriv --reuid postgres --regid postgres --clear-groups \
    sh -c "$bin/postgres --single -D $data postgres" > /dev/null
fi
install -d -o postgres -g postgres /var/run/postgresql
exec setpriv --reuid postgres --regid postgres --clear-groups "$bin/postgres" -D "$data" -c listen_addresses='*'
