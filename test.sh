#!/usr/bin/env bash
# Checks everything: format, lints, tests, the stand-alone verifier, documentation, and the README's own commands.
#
#   ./test.sh           all of it
#   ./test.sh --quick   format, lints, and the tests that start no Postgres and no Redis
#
# Needs a Rust toolchain. What else is missing is installed by apt-get where that is possible: a C compiler (for the linker and the
# bundled SQLite), python3 (for verify.py), redis-server, postgres and pgbouncer (the tests start private ones on free ports of the
# loopback interface), curl (for the README's requests), strace and tools for mounts (for the disk faults), node, npm and PHP (for
# peers on Redis). With CI=true a missing rustfmt or clippy fails; without, its stage is skipped and named. One feature set and the dev profile throughout, so
# that nothing is built twice: the smoke stage runs the binary that the tests built, where the README says --release.
set -euo pipefail
cd "$(dirname "$0")"

quick=false
for argument in "$@"; do
  case "$argument" in
    --quick) quick=true ;;
    -h | --help)
      sed -n '2,11s/^# \{0,1\}//p' "$0"
      exit 0
      ;;
    *)
      echo "test.sh: unknown argument $argument (only --quick)" >&2
      exit 2
      ;;
  esac
done
in_ci=false
case "${CI:-}" in true | 1) in_ci=true ;; esac

scratch=$(mktemp -d)
server=""
finish() {
  if [ -n "$server" ]; then kill "$server" 2>/dev/null || true; fi
  rm -rf "$scratch"
}
trap finish EXIT
trap 'exit 130' INT TERM

export CARGO_TERM_COLOR="${CARGO_TERM_COLOR:-never}"
export CARGO_INCREMENTAL="${CARGO_INCREMENTAL:-1}"
# The tests make their own stores and keys; nothing of the caller's may leak in.
for name in ${!ONWARD@}; do unset "$name"; done
target="${CARGO_TARGET_DIR:-target}"

started=$SECONDS
stages=()
skipped=()

stage() { # NAME COMMAND...
  local name=$1 begun=$SECONDS
  shift
  printf '\n== %s\n' "$name"
  if "$@"; then
    stages+=("$(printf '%-10s ok      %4d s' "$name" $((SECONDS - begun)))")
  else
    printf '\n== %s FAILED after %d s\n' "$name" $((SECONDS - begun))
    summary failed "$name"
    exit 1
  fi
}

skip() { # NAME WHY
  if $in_ci; then
    printf '\n== %s FAILED: %s\n' "$1" "$2"
    summary failed "$1"
    exit 1
  fi
  printf '\n== %s skipped: %s\n' "$1" "$2"
  stages+=("$(printf '%-10s skipped' "$1")")
  skipped+=("$1")
}

summary() { # VERDICT [STAGE]
  printf '\n'
  if [ -s "$scratch/tests.log" ]; then grep -E '^ *(Running|Doc-tests) |^test result' "$scratch/tests.log" || true; fi
  if [ ${#stages[@]} -gt 0 ]; then printf '%s\n' "${stages[@]}"; fi
  local passed=0 n
  if [ -s "$scratch/tests.log" ]; then
    while read -r n; do passed=$((passed + n)); done < <(sed -n 's/^test result: .* \([0-9]*\) passed.*/\1/p' "$scratch/tests.log")
  fi
  local note=""
  if [ ${#skipped[@]} -gt 0 ]; then note=" (skipped: ${skipped[*]})"; fi
  if [ "$1" = ok ]; then
    echo "test.sh: OK, $passed tests passed in $((SECONDS - started)) s$note"
  else
    echo "test.sh: FAILED in stage $2 after $((SECONDS - started)) s, $passed tests passed$note"
  fi
}

# Installs what is missing, or says what to install.
need() { # COMMAND PACKAGES...
  local command=$1
  shift
  if command -v "$command" >/dev/null 2>&1; then return 0; fi
  get "$command" "$@" && command -v "$command" >/dev/null 2>&1
}

get() { # WHAT PACKAGES...
  local command=$1 as=""
  shift
  if ! command -v apt-get >/dev/null 2>&1; then
    echo "test.sh: $command is missing; install it" >&2
    return 1
  fi
  if [ "$(id -u)" != 0 ]; then
    if sudo -n true 2>/dev/null; then
      as="sudo -n"
    else
      echo "test.sh: $command is missing and this user may not install it; run: sudo apt-get install $*" >&2
      return 1
    fi
  fi
  echo "installing $*"
  if $as apt-get update -qq && $as env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null; then
    return 0
  fi
  echo "test.sh: $command is missing and apt-get could not install $*" >&2
  return 1
}

tools() {
  if ! command -v cargo >/dev/null 2>&1; then
    if [ -x "$HOME/.cargo/bin/cargo" ]; then
      PATH="$HOME/.cargo/bin:$PATH"
    else
      echo "test.sh: cargo is missing; install Rust from https://rustup.rs" >&2
      return 1
    fi
  fi
  need cc gcc libc6-dev && need python3 python3 && { $quick || need curl curl; } && cargo --version && cc --version | head -n 1 && python3 --version
}

# What the engines for many machines are tested against. A package may start its own server: ours are others, on other ports.
servers() {
  need redis-server redis-server || return 1
  if ! command -v postgres >/dev/null 2>&1 && ! compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null; then
    get postgres postgresql || return 1
  fi
  # In sbin, which is not on everybody's path.
  if ! command -v pgbouncer >/dev/null 2>&1 && [ ! -x /usr/sbin/pgbouncer ]; then get pgbouncer pgbouncer || return 1; fi
  redis-server --version
  { command -v postgres >/dev/null 2>&1 && postgres --version; } || { compgen -G '/usr/lib/postgresql/*/bin/postgres' | tail -n 1; }
}

format() { cargo fmt --all --check; }

# Twice: everything with its tests, and the library alone as an application without SQLite builds it.
lints() {
  cargo clippy --workspace --all-targets --locked -- -D warnings &&
    cargo clippy -p onward --test faults --test interop --locked -- -D warnings &&
    cargo clippy -p onward --lib --no-default-features --locked -- -D warnings
}

# Quick: without what waits for other servers, and fewer random schedules.
tests() {
  local without=()
  if $quick; then
    without=(-- --skip postgres --skip redis --skip replicas)
    export ONWARD_TEST_SCHEDULES=500
  fi
  cargo test --workspace --locked --no-fail-fast "${without[@]}" 2>&1 | tee "$scratch/tests.log"
}

# Disk faults under real processes. What this machine cannot do names itself in a line of its own.
faults() {
  need strace strace && need unshare util-linux && need mount mount || return 1
  # For the power cut, which only a superuser can stage.
  [ "$(id -u)" != 0 ] || need mkfs.ext4 e2fsprogs || return 1
  cargo test -p onward --test faults --locked --no-fail-fast -- --nocapture 2>&1 | tee "$scratch/faults.log" || return 1
  cat "$scratch/faults.log" >>"$scratch/tests.log"
  local what
  while read -r what; do skipped+=("$what"); done < <(sed -n 's/.*skipped: \([^(]*[^ (]\).*/\1/p' "$scratch/faults.log")
}

# Built by the tests above; each one asserts what it shows.
examples() {
  local example
  for example in crates/onward/examples/*.rs; do
    example=$(basename "$example" .rs)
    "$target/debug/examples/$example" >"$scratch/example.log" 2>&1 || { echo "example $example failed:"; cat "$scratch/example.log"; return 1; }
  done
}

verifier() { python3 crates/onward/src/audit/verify/verify.py --self-test; }

# Without the binary: it has the name of the library, and its pages would overwrite the library's.
documentation() { RUSTDOCFLAGS="-D warnings" cargo doc --workspace --exclude onward-cli --no-deps --locked; }

# Starts a development server with the binary that the tests built; sets $line, $url and $token.
start_dev() {
  onward="$PWD/$target/debug/onward"
  case "$target" in /*) onward="$target/debug/onward" ;; esac
  # Built with the tests where the package has some; else now.
  [ -x "$onward" ] || cargo build --locked -p onward-cli || return 1
  export XDG_RUNTIME_DIR="$scratch/run"
  mkdir -p -m 700 "$XDG_RUNTIME_DIR" && rm -f "$scratch/ready" && mkfifo "$scratch/ready" || return 1
  "$onward" dev --port 0 -o json >"$scratch/ready" 2>"$scratch/dev.log" &
  server=$!
  line=""
  if ! read -r -t 30 line <"$scratch/ready"; then
    echo "onward dev did not become ready" && cat "$scratch/dev.log"
    return 1
  fi
  echo "dev is ready"
  url=$(member url "$line") && token=$(member token "$line")
}

stop_dev() { kill "$server" && { wait "$server" || true; } && server=""; }

# The alert rules and their tests, with Prometheus' own tool. The package is only unpacked: installing it would start a service.
prom() { "$scratch/prometheus/usr/bin/promtool" "$@"; }
has_promtool() {
  if command -v promtool >/dev/null 2>&1; then
    mkdir -p "$scratch/prometheus/usr/bin" && ln -s "$(command -v promtool)" "$scratch/prometheus/usr/bin/promtool"
    return 0
  fi
  command -v apt-get >/dev/null 2>&1 || return 1
  (cd "$scratch" && { apt-get download -qq prometheus || { apt-get update -qq && apt-get download -qq prometheus; }; } && dpkg -x prometheus_*.deb prometheus) >/dev/null 2>&1
}
alerts() { prom check rules deploy/prometheus/alerts.yml && prom test rules deploy/prometheus/alerts.test.yml; }

# Everything that openapi.json describes and what it forbids, against a server: seeded and bounded. Streams have no end, and
# schemathesis writes no JSON lines: both are left out. Waits are cut short in a copy of the description.
has_schemathesis() {
  python3 -c 'import ensurepip, venv' 2>/dev/null || get python3-venv python3-venv || return 1
  python3 -m venv "$scratch/venv" && "$scratch/venv/bin/pip" install -q --disable-pip-version-check 'schemathesis==4.32.5' >"$scratch/pip.log" 2>&1 && return 0
  tail -n 3 "$scratch/pip.log"
  return 1
}
fuzz_http() {
  local onward line url token
  start_dev || return 1
  sed 's/"maximum": 60000/"maximum": 20/' crates/onward-api/openapi.json >"$scratch/api.json"
  cp .ci/schemathesis.toml "$scratch/schemathesis.toml"
  # In the scratch folder, since it leaves files where it runs.
  if ! (cd "$scratch" && exec timeout 150 venv/bin/schemathesis --config-file schemathesis.toml run "$scratch/api.json" --url "$url" \
    -H "Authorization: Bearer $token" --exclude-operation-id watch --exclude-operation-id importObjects --exclude-operation-id importChain --request-timeout 5 --continue-on-failure --warnings off \
    --seed 1 --max-examples 20) >"$scratch/fuzz.log" 2>&1; then
    cat "$scratch/fuzz.log"
    return 1
  fi
  sed -n '/^Test cases:/,/^$/p' "$scratch/fuzz.log"
  # It still stands, and no panic was caught on the way.
  # Into a file: grep leaves at the first hit, and who writes into a pipe that nobody reads has failed.
  curl -sS -H "Authorization: Bearer $token" "$url/metrics" >"$scratch/metrics" || return 1
  grep -qx 'onward_panics_total 0' "$scratch/metrics" || { echo "a panic was caught"; cat "$scratch/dev.log"; return 1; }
  stop_dev
}

# The README's commands: a server, its HTTP interface, the command line, the proofs.
smoke() {
  local onward line url token
  start_dev || return 1
  # Each request of the README must end as the README says.
  printf 'silent\nshow-error\nwrite-out = "\\nstatus=%%{http_code}\\n"\n' >"$scratch/.curlrc"
  block 'With curl' | sed "s#http://127.0.0.1:7337#$url#" >"$scratch/curl.sh"
  CURL_HOME="$scratch" ONWARD_TOKEN="$token" bash -euo pipefail "$scratch/curl.sh" >"$scratch/curl.log" 2>&1 || { cat "$scratch/curl.log"; return 1; }
  local statuses
  statuses=$(sed -n 's/^status=//p' "$scratch/curl.log" | paste -sd ' ')
  if [ "$statuses" != "201 200 412 201 404 201 200" ]; then
    cat "$scratch/curl.log"
    echo "the README's requests ended with $statuses"
    return 1
  fi
  echo "README, with curl: $statuses"
  block 'On the command line' >"$scratch/cli.sh"
  # Its object is there already from the requests before.
  sed -i 's#project/42#project/43#; s#web project:42#web project:43#; s#run nightly#run hourly#' "$scratch/cli.sh"
  (cd "$scratch" && PATH="$(dirname "$onward"):$PATH" bash -euo pipefail cli.sh) || return 1
  echo "README, on the command line: ok"
  local data
  data=$(member data_dir "$line") || return 1
  bash -euo pipefail -c "$(block 'For the auditor' | sed "s# data/# $data/#g; s#billing.head#$scratch/billing.head#")" || return 1
  echo "README, for the auditor: ok"
  stop_dev
  "$onward" prove all
}

# What others wrote: clients of Redis on one key with ours (redis-py, node-redlock, PHP's own), and an S3 for archives (moto).
has_peers() {
  { command -v php >/dev/null 2>&1 && php -m | grep -x redis >/dev/null; } || get php-redis php-cli php-redis || return 1
  { command -v node >/dev/null 2>&1 && command -v npm >/dev/null 2>&1; } || get node nodejs npm || return 1
  python3 -c 'import ensurepip, venv' 2>/dev/null || get python3-venv python3-venv || return 1
  python3 -m venv "$scratch/peers" && "$scratch/peers/bin/pip" install -q --disable-pip-version-check 'redis==8.1.0' 'moto==5.2.5' 'flask==3.1.3' 'flask-cors==6.0.5' 'py-partiql-parser==0.6.3' 'PyYAML==6.0.3' >"$scratch/peers.log" 2>&1 &&
    npm install --silent --no-audit --no-fund --prefix "$scratch/peers" 'redlock@5.0.0-beta.2' 'ioredis@6.0.0' >>"$scratch/peers.log" 2>&1 && return 0
  tail -n 3 "$scratch/peers.log"
  return 1
}
interop() {
  ONWARD_PYTHON="$scratch/peers/bin/python" ONWARD_NODE_MODULES="$scratch/peers/node_modules" \
    cargo test -p onward --test interop --locked --no-fail-fast 2>&1 | tee "$scratch/interop.log" || return 1
  cat "$scratch/interop.log" >>"$scratch/tests.log"
}

# A member of one line of flat JSON.
member() { python3 -c 'import json, sys; print(json.loads(sys.argv[2])[sys.argv[1]])' "$1" "$2"; }

# The first bash block under a heading of the README.
block() { awk -v heading="## $1" '$0 == heading {in_part = 1; next} /^## / {in_part = 0} in_part && /^```$/ {exit} in_part && in_block {print} in_part && /^```bash$/ {in_block = 1}' README.md; }

stage tools tools
if ! $quick; then stage servers servers; fi
if cargo fmt --version >/dev/null 2>&1; then stage format format; else skip format "no rustfmt; rustup component add rustfmt"; fi
if cargo clippy --version >/dev/null 2>&1; then stage lints lints; else skip lints "no clippy; rustup component add clippy"; fi
stage tests tests
stage examples examples
stage verifier verifier
if ! $quick; then
  stage faults faults
  if has_peers; then stage interop interop; else skip interop "apt-get, pip or npm could not install the peers"; fi
  stage docs documentation
  stage smoke smoke
  if has_promtool; then stage alerts alerts; else skip alerts "no promtool, and apt-get has no prometheus"; fi
  if has_schemathesis; then stage fuzz-http fuzz_http; else skip fuzz-http "pip could not install schemathesis"; fi
fi
summary ok
