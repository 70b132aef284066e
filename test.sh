#!/usr/bin/env bash
# Checks everything: format, lints, tests, the stand-alone verifier, documentation, and the README's own commands.
#
#   ./test.sh           all of it
#   ./test.sh --quick   format, lints, tests
#
# Needs a Rust toolchain. What else is missing is installed by apt-get where that is possible: a C compiler (for the bundled SQLite and
# the linker) and python3 (for verify.py). With CI=true a missing rustfmt or clippy fails; without, its stage is skipped and named.
# One feature set and the dev profile throughout, so that nothing is built twice; the smoke stage runs the binary that the tests built.
set -euo pipefail
cd "$(dirname "$0")"

quick=false
for argument in "$@"; do
  case "$argument" in
    --quick) quick=true ;;
    -h | --help)
      sed -n '2,9s/^# \{0,1\}//p' "$0"
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
unset ONWARD_URL ONWARD_TOKEN ONWARD_AUDIT_KEY ONWARD__LOCKS__ENABLED 2>/dev/null || true
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
  local command=$1 as=""
  shift
  if command -v "$command" >/dev/null 2>&1; then return 0; fi
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
  $as apt-get update -qq && $as env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
  command -v "$command" >/dev/null 2>&1
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
  need cc gcc libc6-dev && need python3 python3 && cargo --version && cc --version | head -n 1 && python3 --version
}

format() { cargo fmt --all --check; }

# Twice: everything with its tests, and the library alone as an application without SQLite builds it.
lints() {
  cargo clippy --workspace --all-targets --locked -- -D warnings &&
    cargo clippy -p onward --lib --no-default-features --locked -- -D warnings
}

tests() {
  cargo test --workspace --locked --no-fail-fast 2>&1 | tee "$scratch/tests.log"
}

verifier() { python3 crates/onward/src/audit/verify/verify.py --self-test; }

documentation() { RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked; }

stage tools tools
if cargo fmt --version >/dev/null 2>&1; then stage format format; else skip format "no rustfmt; rustup component add rustfmt"; fi
if cargo clippy --version >/dev/null 2>&1; then stage lints lints; else skip lints "no clippy; rustup component add clippy"; fi
stage tests tests
stage verifier verifier
if ! $quick; then
  stage docs documentation
fi
summary ok
