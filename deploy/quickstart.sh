#!/usr/bin/env bash
# Builds Hookferry, starts a relay, an agent and a small service on this machine, sends a webhook
# signed as Stripe signs, and shows its journey. Then it stays up to be tried, until Ctrl-C.
#
#   ./deploy/quickstart.sh          stay up
#   ./deploy/quickstart.sh --once   end after the first delivery: 0 if it was delivered, else 1
#
# Needs a Rust toolchain; installs with apt-get what else is missing. Everything that it makes is in
# a fresh directory under ${TMPDIR:-/tmp} and is gone when it ends. Several may run at once.
set -euo pipefail

work='' # the directory of this run
pids=() # what it started, in this order
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)

main() {
    local once=false
    case "${1-}" in
        '') ;;
        --once) once=true ;;
        -h | --help) usage && exit 0 ;;
        *) usage >&2 && exit 2 ;;
    esac
    # The reader's own settings must not steer the quickstart's relay and agent.
    local variable
    for variable in $(compgen -e HOOKFERRY_ || true); do unset "$variable"; done

    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    install_packages
    build
    work=$(mktemp -d "${TMPDIR:-/tmp}/hookferry-quickstart.XXXXXXXX")

    step 'Starting a relay'
    start_relay
    step 'Telling it what goes where'
    configure_relay
    step 'Starting a service, and an agent that serves it'
    start_service
    start_agent

    step 'Sending a webhook, signed as Stripe signs'
    send_signed_event
    wait_until_delivered
    show_attempts
    if $once; then
        say '' 'Delivered.'
        return
    fi
    show_what_to_try
    stay_up
}

usage() { sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; }

say() { printf '%s\n' "$@"; }

step() { printf '\n== %s\n' "$*"; }

die() {
    printf 'quickstart: %s\n' "$*" >&2
    exit 1
}

# -- What is needed ---------------------------------------------------------------------------------

install_packages() {
    command -v cargo >/dev/null || die 'cargo is missing; install Rust as https://rustup.rs says'
    local missing=()
    command -v cc >/dev/null || missing+=(gcc libc6-dev)
    command -v curl >/dev/null || missing+=(curl)
    command -v openssl >/dev/null || missing+=(openssl)
    command -v setsid >/dev/null || missing+=(util-linux)
    [ ${#missing[@]} -eq 0 ] && return

    command -v apt-get >/dev/null || die "please install ${missing[*]}: there is no apt-get to do it with"
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || die "please install ${missing[*]} as root"
        as_root=(sudo)
    fi
    step "Installing ${missing[*]}"
    "${as_root[@]}" apt-get update --quiet --quiet
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends "${missing[@]}"
}

build() {
    step 'Building (a few minutes the first time)'
    cd -- "$root"
    # Beside us, so that being asked to stop is heard meanwhile.
    cargo build --release --locked -p relay-server -p relay-agent --bins --example sample_service </dev/null &
    pids=("$!")
    wait "$!"
    pids=()
    local target
    target=$(cargo metadata --locked --no-deps --format-version 1 | json_field target_directory)
    bin=$target/release
}

# The first value of a text field in JSON from the standard input. Its values hold no quotes here.
json_field() {
    local field=$1 text
    text=$(cat)
    [[ $text =~ \"$field\"[[:space:]]*:[[:space:]]*\"([^\"]*)\" ]] || return 1
    printf '%s\n' "${BASH_REMATCH[1]}"
}

# -- Everything that must end with us -----------------------------------------------------------------

# Starts a program in a session of its own, so that Ctrl-C reaches it in order and not all at once.
# Its output goes to $work/NAME.out and $work/NAME.log.
start() {
    local name=$1
    shift
    setsid "$@" </dev/null >"$work/$name.out" 2>"$work/$name.log" &
    pid=$!
    pids+=("$pid")
}

# Asks all to stop, the last started first, and makes sure of it.
clean_up() {
    local status=$? index patience
    trap '' INT TERM HUP
    for ((index = ${#pids[@]} - 1; index >= 0; index--)); do
        kill -TERM "${pids[index]}" 2>/dev/null || continue
        for ((patience = 0; patience < 100; patience++)); do
            kill -0 "${pids[index]}" 2>/dev/null || break
            sleep 0.1
        done
        kill -KILL "${pids[index]}" 2>/dev/null || true
    done
    if [ -n "$work" ]; then rm -rf -- "$work"; fi
    exit "$status"
}

# Waits until a command succeeds, at most some seconds, as long as a process lives.
wait_for() {
    local seconds=$1 alive=$2 tries
    shift 2
    for ((tries = seconds * 10; tries > 0; tries--)); do
        "$@" && return
        kill -0 "$alive" 2>/dev/null || return
        sleep 0.1
    done
    return 1
}

show_log() { sed 's/^/    /' "$work/$1.log" >&2; }

# -- Relay --------------------------------------------------------------------------------------------

start_relay() {
    "$bin/relay-server" init --config "$work/server.toml" --data-dir "$work/data" \
        --token-file "$work/operator.token" 2>"$work/init.log" || { show_log init && die 'init failed'; }

    # The usual ports, or any that are free.
    if ! try_relay 127.0.0.1:8080 127.0.0.1:9090 && ! try_relay 127.0.0.1:0 127.0.0.1:0; then
        show_log relay
        die 'the relay did not start'
    fi
    say "    public  $public_url" "    admin   $admin_url"
}

try_relay() {
    start relay "$bin/relay-server" serve --config "$work/server.toml" --listen "$1" --admin-listen "$2"
    relay_pid=$pid
    wait_for 30 "$relay_pid" relay_has_urls && return
    unset 'pids[-1]'
    kill -KILL "$relay_pid" 2>/dev/null || true
    wait "$relay_pid" 2>/dev/null || true
    return 1
}

relay_has_urls() {
    public_url=$(sed -n 's/^public //p' "$work/relay.out")
    admin_url=$(sed -n 's/^admin //p' "$work/relay.out")
    [ -n "$public_url" ] && [ -n "$admin_url" ]
}

# The command line of the relay, for the tenant of the quickstart.
admin() {
    "$bin/relay-server" "$@" --server "$admin_url" --token-file "$work/operator.token" --output json
}

configure_relay() {
    secret=whsec_$(openssl rand -hex 24)
    admin tenant create demo >/dev/null
    printf '%s' "$secret" |
        admin source create stripe --tenant demo --preset stripe --secret-stdin >"$work/source.json"
    admin source create try --tenant demo --preset none >"$work/try.json"
    admin destination create billing --tenant demo >/dev/null
    admin route create --tenant demo --source stripe --destination billing >/dev/null
    admin route create --tenant demo --source try --destination billing >/dev/null
    admin token create agent --tenant demo --kind agent --scope connect --scope listen \
        --write-to "$work/agent.token" >/dev/null 2>"$work/token.log" || { show_log token && die 'no token'; }
    source_url=$(json_field url <"$work/source.json")
    try_url=$(json_field url <"$work/try.json")
    say '    source stripe (checks Stripe signatures) -> destination billing' \
        '    source try (checks nothing)              -> destination billing'
}

# -- Service and agent --------------------------------------------------------------------------------

start_service() {
    start service "$bin/examples/sample_service" 127.0.0.1:0
    local service_pid=$pid
    if ! wait_for 10 "$service_pid" service_has_url || [ -z "$service_url" ]; then
        show_log service
        die 'the service did not start'
    fi
    say "    service $service_url"
}

service_has_url() {
    service_url=$(sed -n 's/^listening on //p' "$work/service.out")
    [ -n "$service_url" ]
}

start_agent() {
    cat >"$work/agent.toml" <<END
server = "$public_url"
token_file = "$work/agent.token"
data_dir = "$work/agent"

[[forward]]
destination = "billing"
to = "$service_url"

[observability]
listen = "off"
END
    start agent "$bin/relay-agent" run --config "$work/agent.toml"
    agent_pid=$pid
    say "    agent   forwards billing to $service_url"
}

# -- The journey of an event --------------------------------------------------------------------------

send_signed_event() {
    local body time signature status
    body='{"id":"evt_quickstart","type":"invoice.paid","data":{"object":{"amount_paid":1999,"currency":"eur"}}}'
    time=$(date +%s)
    signature=$(printf '%s.%s' "$time" "$body" | openssl dgst -sha256 -hmac "$secret" -r | cut -d ' ' -f 1)
    status=$(curl --silent --show-error --noproxy '*' --max-time 20 \
        --output "$work/answer.json" --write-out '%{http_code}' \
        --header 'Content-Type: application/json' \
        --header "Stripe-Signature: t=$time,v1=$signature" \
        --data-binary "$body" "$source_url")
    say "    POST $source_url" "    answered $status $(cat "$work/answer.json")"
    [ "$status" = 200 ] || die 'the relay did not take the event'
    event=$(json_field id <"$work/answer.json") || die 'the answer names no event'
}

wait_until_delivered() {
    local count
    if ! wait_for 30 "$agent_pid" is_delivered || ! is_delivered; then
        show_log agent
        show_log relay
        admin deliveries list --tenant demo --event "$event" >&2 || true
        die "event $event was not delivered within 30 s"
    fi
    count=$(grep --count --fixed-strings "$event" "$work/service.out" || true)
    [ "$count" -ge 1 ] || die 'the relay says delivered, but the service saw nothing'
    say '    the service received:'
    grep --fixed-strings "$event" "$work/service.out" | sed 's/^/        /'
}

is_delivered() {
    admin deliveries list --tenant demo --event "$event" >"$work/deliveries.json" &&
        [ "$(json_field state <"$work/deliveries.json")" = delivered ]
}

show_attempts() {
    local delivery
    delivery=$(json_field id <"$work/deliveries.json")
    say '    the relay says:'
    show deliveries list --tenant demo --event "$event"
    show deliveries attempts "$delivery" --tenant demo
}

show() {
    "$bin/relay-server" "$@" --server "$admin_url" --token-file "$work/operator.token" | sed 's/^/        /'
}

# -- Staying up ---------------------------------------------------------------------------------------

show_what_to_try() {
    cat <<END

== Try it

Source that checks Stripe signatures:
    $source_url        (secret: $secret)

Source that checks nothing, so that a plain curl works (not for real use):
    curl -d 'hello=world' '$try_url/any/path?b=2&a=1'

A signed event, as Stripe would send it:
    body='{"id":"evt_mine_1","type":"invoice.paid"}'; t=\$(date +%s)
    sig=\$(printf '%s.%s' "\$t" "\$body" | openssl dgst -sha256 -hmac '$secret' -r | cut -d ' ' -f 1)
    curl -H "Stripe-Signature: t=\$t,v1=\$sig" -d "\$body" '$source_url'

Your own service, say on port 3000, beside the sample; in another terminal:
    $bin/relay-agent listen 3000 --source try --server $public_url --token-file $work/agent.token

What the relay knows:
    $bin/relay-server deliveries list --tenant demo --server $admin_url --token-file $work/operator.token

Requests that reach the sample service follow. Ctrl-C stops everything and removes $work.

END
}

stay_up() {
    local status=0
    setsid tail --lines=0 --follow "$work/service.out" </dev/null &
    pids+=("$!")
    wait -n || status=$?
    show_log agent
    show_log relay
    die "a part ended by itself, with exit code $status"
}

main "$@"; exit
