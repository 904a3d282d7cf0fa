#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# The device's status in shell alone: bash, coreutils, and systemd-stdio-bridge, which every systemd machine has.
#
# `busctl` can call, but it can neither keep a connection nor answer a call, and a registration lives as long as its
# connection. So this script speaks D-Bus itself, through a bridge that carries its standard input and output to the
# system bus. A message is kept as hexadecimal digits, since bash strings cannot hold a NUL byte.
#
#   ./hybridos app run --endpoint /examples/status-sh -- clients/examples/status.sh
set -u
export LC_ALL=C
namespace=${1:-/examples/status-sh}

# --- writing: M is the message (or part of it) so far, in hex

hex() { printf %s "$1" | od -An -v -tx1 | tr -d ' \n'; }
align() { while ((${#M} / 2 % $1)); do M+=00; done; }
u32() { align 4; local h; printf -v h %08x "$1"; M+=${h:6:2}${h:4:2}${h:2:2}${h:0:2}; }
text() { local h; h=$(hex "$1"); u32 $((${#h} / 2)); M+=${h}00; } # s and o
signature() { local h; h=$(hex "$1"); printf -v h %02x%s00 ${#1} "$h"; M+=$h; }
field() { # code, type, value
    align 8
    printf -v M %s%02x "$M" "$1"
    signature "$2"
    case $2 in
    s | o) text "$3" ;;
    u) u32 "$3" ;;
    g) signature "$3" ;;
    esac
}
little() { local h; printf -v h %08x "$1"; R=${h:6:2}${h:4:2}${h:2:2}${h:0:2}; }
serial=0
send() { # type, flags, body in hex, then fields: code type value …
    local type=$1 flags=$2 body=$3 size
    shift 3
    serial=$((serial + 1))
    M=00000000000000000000000000000000 # 16 bytes of header, filled in at the end
    while (($#)); do
        field "$1" "$2" "$3"
        shift 3
    done
    size=$((${#M} / 2 - 16))
    align 8
    local fields=${M:32}
    printf -v M '6c%02x%02x01' "$type" "$flags"
    little $((${#body} / 2)); M+=$R
    little $serial; M+=$R
    little $size; M+=$R
    M+=$fields$body
    printf %b "$(sed 's/../\\x&/g' <<<"$M")" >&"$out"
}

# --- reading

get() { R=$(head -c "$1" <&"$in" | od -An -v -tx1 | tr -d ' \n'); ((${#R} == $1 * 2)); }
at32() { local h=${B:$1*2:8}; R=$((16#${h:6:2}${h:4:2}${h:2:2}${h:0:2})); }
chars() { printf -v R %b "$(sed 's/../\\x&/g' <<<"${B:$1*2:$2*2}")"; }
receive() { # sets kind, flags, their_serial, reply_serial, member, interface, sender
    local body size i end code type
    get 16 || return 1
    B=$R
    [[ ${B:0:2} == 6c ]] || return 1 # the bus and we have the same byte order
    kind=$((16#${B:2:2})) flags=$((16#${B:4:2}))
    at32 4; body=$R
    at32 8; their_serial=$R
    at32 12; size=$R
    ((body < 1 << 20 && size < 1 << 16)) || return 1
    get $(((size + 7) / 8 * 8 + body)) || return 1
    B=$R reply_serial=0 member='' interface='' sender=''
    for ((i = 0; i < size; )); do
        i=$(((i + 7) / 8 * 8))
        code=$((16#${B:i*2:2}))
        chars $((i + 2)) 1; type=$R # after the length of the signature, which is 1 here
        i=$((i + 4))
        case $type in
        s | o)
            i=$(((i + 3) / 4 * 4))
            at32 $i; end=$R
            chars $((i + 4)) "$end"
            i=$((i + 5 + end))
            ;;
        u) i=$(((i + 3) / 4 * 4)); at32 $i; i=$((i + 4)) ;;
        g) end=$((16#${B:i*2:2})); R=''; i=$((i + 2 + end)) ;;
        *) return 1 ;;
        esac
        case $code in
        2) interface=$R ;;
        3) member=$R ;;
        5) reply_serial=$R ;;
        7) sender=$R ;;
        esac
    done
}

# --- the app

status() {
    read -r up _ </proc/uptime
    read -r one five fifteen _ </proc/loadavg
    read -r host </proc/sys/kernel/hostname
    printf '{"hostname":"%s","uptime":%d,"load":[%s,%s,%s]}\n' "$host" "${up%.*}" "$one" "$five" "$fifteen"
}

answer() { # status u, headers a(ss), reply a{sv} with "body" as ay
    local body count fields
    body=$(hex "$(status)")
    M=''
    u32 200
    u32 0 # bytes of headers, known below
    align 8
    local begin=${#M}
    text content-type
    text application/json
    count=$(((${#M} - begin) / 2))
    little $count
    M=${M:0:8}$R${M:16}
    align 4
    fields=${#M}
    u32 0
    align 8
    begin=${#M}
    text body
    signature ay
    u32 $((${#body} / 2))
    M+=$body
    little $(((${#M} - begin) / 2))
    M=${M:0:fields}$R${M:fields+8}
    send 2 1 "$M" 5 u "$their_serial" 6 s "$sender" 8 g 'ua(ss)a{sv}'
}

register() {
    M=''
    text "$namespace"
    text /org/example/status
    u32 0 # no options: an empty a{sv}, whose entries would begin at a multiple of 8
    align 8
    send 1 0 "$M" 1 o /org/hybridos/Endpoints1 2 s org.hybridos.Endpoints1 3 s Register \
        6 s org.hybridos.Endpoints1 8 g soa{sv}
    registering=$serial
}

watch_registrar() { # to register again when it has been restarted
    M=''
    text "type='signal',sender='org.freedesktop.DBus',member='NameOwnerChanged',arg0='org.hybridos.Endpoints1'"
    send 1 1 "$M" 1 o /org/freedesktop/DBus 2 s org.freedesktop.DBus 3 s AddMatch 6 s org.freedesktop.DBus 8 g s
}

coproc BUS { exec systemd-stdio-bridge ${STATUS_BUS:+--bus-path="$STATUS_BUS"}; }
exec {in}<&"${BUS[0]}" {out}>&"${BUS[1]}" # copies, since bash keeps its own from subshells
trap 'kill "$BUS_PID" 2>/dev/null' EXIT
printf '\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n' >&"$out"
until [[ ${line:-} == OK* ]]; do
    IFS= read -r line <&"$in" || exit 1
    [[ $line != REJECTED* && $line != ERROR* ]] || exit 1
done
send 1 0 '' 1 o /org/freedesktop/DBus 2 s org.freedesktop.DBus 3 s Hello 6 s org.freedesktop.DBus
watch_registrar
register
while receive; do
    case $kind in
    1) # a call
        if [[ $interface.$member == org.hybridos.Responder1.Handle ]]; then
            answer
        elif ((!(flags & 1))); then
            send 3 1 '' 4 s org.freedesktop.DBus.Error.UnknownMethod 5 u "$their_serial" 6 s "$sender"
        fi
        ;;
    3) # an error
        if ((reply_serial == registering)); then
            echo "cannot register $namespace" >&2
            exit 1
        fi
        ;;
    4) # the registrar came or went: its new owner, the last string of the signal, is empty when it went
        if [[ $member == NameOwnerChanged && $B != *0000000000 ]]; then register; fi
        ;;
    esac
done
exit 1
