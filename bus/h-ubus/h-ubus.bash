# SPDX-License-Identifier: Apache-2.0
# bash completion for h-ubus

_h_ubus_words() {
    COMPREPLY=($(compgen -W "$1" -- "${COMP_WORDS[COMP_CWORD]}"))
}

_h_ubus() {
    local verbs="list call get set listen subscribe send wait_for monitor respond"
    local options="--help --version --address --user --system --timeout --compact --pretty --quiet
        --verbose --all --objects --signature --destination --count --interfaces --endpoint"
    local cur=${COMP_WORDS[COMP_CWORD]} verb= name= bus=() i word
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        case $word in
        --user | --system | --address=*) bus+=("$word") ;;
        --address) bus+=("--address=${COMP_WORDS[++i]}") ;;
        -t | -s | -d | -n | --timeout | --signature | --destination | --count | --interfaces | --endpoint) ((i++)) ;;
        -*) ;;
        *) if [[ -z $verb ]]; then verb=$word; elif [[ -z $name ]]; then name=$word; fi ;;
        esac
    done
    if [[ $cur == -* ]]; then
        _h_ubus_words "$options"
    elif [[ -z $verb ]]; then
        _h_ubus_words "$verbs"
    elif [[ -z $name || $verb == wait_for ]]; then
        case $verb in
        list | call | get | set | subscribe | wait_for)
            _h_ubus_words "$(h-ubus "${bus[@]}" list 2>/dev/null)" ;;
        esac
    elif [[ $verb == call || $verb == get || $verb == set ]]; then
        # Only names of members are taken over: they are [A-Za-z0-9_] by the bus's own rules.
        local kind=method
        [[ $verb == call ]] || kind=property
        _h_ubus_words "$(h-ubus "${bus[@]}" -q -t 2 list -v "$name" 2>/dev/null |
            awk -v kind="$kind" '/^[^ ]/ { print $2 } /^  [^ ]/ { i = $1 }
                $1 == kind && /^    [^ ]/ { sub(/\(.*/, "", $2); print i "." $2 }')"
    fi
}
complete -F _h_ubus h-ubus
