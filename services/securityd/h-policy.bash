# SPDX-License-Identifier: Apache-2.0
# bash completion for h-policy

_h_policy_words() {
    COMPREPLY=($(compgen -W "$1" -- "${COMP_WORDS[COMP_CWORD]}"))
}

# The first word of each line of a listing: ids and names are [a-z0-9._-] by the agent's own rules.
_h_policy_names() {
    h-policy "$@" 2>/dev/null </dev/null | awk '{ print $1 }'
}

# The rules that Grant has made: the others cannot be revoked.
_h_policy_granted() {
    h-policy list 2>/dev/null </dev/null |
        awk '/^\[/ { gsub(/[][]/, ""); id = $2 } /^  # .*\/70-granted-/ { print id }'
}

_h_policy() {
    local verbs="status setup check list grant revoke reload explain simulate record agent consent audit user session cert token node"
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} verb= sub= n=0 i
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
        --id | --when | --user | --role | --expires | --subject | --limit | --out) ((i++)) ;;
        -*) ;;
        *)
            ((n++))
            if [[ -z $verb ]]; then verb=${COMP_WORDS[i]}; elif [[ -z $sub ]]; then sub=${COMP_WORDS[i]}; fi
            ;;
        esac
    done
    case $prev in
    --when) _h_policy_words "encrypted local remote protocol= peer= time= days= rate= arg." && return ;;
    --user) _h_policy_words "$(_h_policy_names user list)" && return ;;
    --out) COMPREPLY=($(compgen -f -- "$cur")) && return ;;
    --id | --role | --expires | --subject | --limit) return ;;
    esac
    if [[ $cur == -* ]]; then
        case $verb in
        setup) _h_policy_words "--user --code --json --help" ;;
        grant) _h_policy_words "--id --when --json --help" ;;
        record) _h_policy_words "--permissive --id --json --help" ;;
        audit) _h_policy_words "--subject --limit --json --help" ;;
        cert) _h_policy_words "--user --role --expires --out --json --help" ;;
        user) _h_policy_words "--role --json --help" ;;
        token) _h_policy_words "--user --role --expires --json --help" ;;
        *) _h_policy_words "--json --help --version" ;;
        esac
        return
    fi
    case $verb,$n in
    ,0) _h_policy_words "$verbs" ;;
    consent,1) _h_policy_words "list forget" ;;
    consent,2) [[ $sub == forget ]] && _h_policy_words "$(_h_policy_names consent list)" ;;
    user,1) _h_policy_words "add list password remove roles" ;;
    cert,1) _h_policy_words "init issue list revoke" ;;
    session,1) _h_policy_words "list remove" ;;
    token,1 | node,1) _h_policy_words "add list remove" ;;
    user,2) [[ $sub == remove || $sub == password || $sub == roles ]] && _h_policy_words "$(_h_policy_names user list)" ;;
    cert,2) [[ $sub == revoke ]] && _h_policy_words "$(_h_policy_names cert list)" ;;
    session,2 | token,2 | node,2) [[ $sub == remove ]] && _h_policy_words "$(_h_policy_names "$verb" list)" ;;
    revoke,1) _h_policy_words "$(_h_policy_granted)" ;;
    simulate,1) COMPREPLY=($(compgen -f -- "$cur")) ;;
    explain,3) _h_policy_words "method get set signal" ;;
    esac
}
complete -F _h_policy h-policy
