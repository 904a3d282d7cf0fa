# SPDX-License-Identifier: Apache-2.0
# bash completion for h-ubus

# Words that begin with what was typed. No "compgen -W": it would expand what stands in them.
_h_ubus_words() {
    local word
    for word in "$@"; do
        [[ $word != "$cur"* ]] || COMPREPLY+=("$word")
    done
}

# "PATH INTERFACE.MEMBER" of every method or property of the service.
_h_ubus_members() {
    h-ubus "${bus[@]}" -q -t 2 list -v "$name" 2>/dev/null |
        awk -v kind="$1" '/^[^ ]/ { path = $2 } /^  [^ ]/ { interface = $1 }
            $1 == kind && /^    [^ ]/ { sub(/\(.*/, "", $2); print path, interface "." $2 }'
}

_h_ubus() {
    local verbs=(list call get set listen subscribe send wait_for monitor respond)
    local options=(--help --version --address --user --system --timeout --compact --pretty --quiet
        --verbose --all --objects --signature --destination --count --interfaces --endpoint --for)
    local line=${COMP_LINE:0:COMP_POINT} words=() cur= verb= name= path= bus=() found i kind
    COMPREPLY=()
    # By blanks alone: bash itself would also split the address of a bus, at "=" and ":".
    read -ra words <<<"$line"
    if [[ $line != *[[:blank:]] ]]; then
        cur=${words[-1]}
        unset 'words[-1]'
    fi
    for ((i = 1; i < ${#words[@]}; i++)); do
        case ${words[i]} in
        --user | --system | --address=* | --interfaces=*) bus+=("${words[i]}") ;;
        --address | --interfaces) bus+=("${words[i]}=${words[++i]}") ;;
        -t | -s | -d | -n | --timeout | --signature | --destination | --count | --endpoint | --for) i=$((i + 1)) ;;
        --) [[ $verb == respond ]] && name=-- ;;
        -*) ;;
        *)
            if [[ -z $verb ]]; then
                verb=${words[i]}
            elif [[ -z $name ]]; then
                name=${words[i]}
            elif [[ -z $path ]]; then
                path=${words[i]}
            fi
            ;;
        esac
    done
    if [[ $cur == -* ]]; then
        _h_ubus_words "${options[@]}"
    elif [[ -z $verb ]]; then
        _h_ubus_words "${verbs[@]}"
    elif [[ $verb == respond ]]; then
        mapfile -t COMPREPLY < <(compgen -c -- "$cur")
    elif [[ -z $name || $verb == wait_for ]]; then
        case $verb in
        list | call | get | set | subscribe | wait_for)
            mapfile -t found < <(h-ubus "${bus[@]}" list 2>/dev/null)
            _h_ubus_words "${found[@]}"
            ;;
        esac
    elif [[ $verb == call || $verb == get || $verb == set ]] && [[ -z $path || $path == /* ]]; then
        kind=property
        [[ $verb != call ]] || kind=method
        # An object first, if wanted; then only its members.
        if [[ -z $path ]]; then
            mapfile -t found < <(_h_ubus_members "$kind" | awk '{ print $1; print $2 }' | sort -u)
        else
            mapfile -t found < <(_h_ubus_members "$kind" | awk -v path="$path" '$1 == path { print $2 }')
        fi
        _h_ubus_words "${found[@]}"
    fi
}
complete -F _h_ubus h-ubus
