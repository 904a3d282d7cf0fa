# SPDX-License-Identifier: Apache-2.0
# bash completion for h-app

_h_app_words() {
    COMPREPLY=($(compgen -W "$1" -- "${COMP_WORDS[COMP_CWORD]}"))
}

_h_app() {
    local cur=${COMP_WORDS[COMP_CWORD]} verb= name= n=0 i
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
        --grant) ((i++)) ;;
        -*) ;;
        *)
            ((n++))
            if [[ -z $verb ]]; then verb=${COMP_WORDS[i]}; elif [[ -z $name ]]; then name=${COMP_WORDS[i]}; fi
            ;;
        esac
    done
    if [[ $cur == -* ]]; then
        case $verb in
        install | update) _h_app_words "--grant --all --no-start --help" ;;
        grant) _h_app_words "--all --help" ;;
        remove) _h_app_words "--keep-data --help" ;;
        list | show) _h_app_words "--json --help" ;;
        *) _h_app_words "--help --version" ;;
        esac
        return
    fi
    case $verb,$n in
    ,0) _h_app_words "check install update list show grant revoke remove" ;;
    check,1 | install,1 | update,1) COMPREPLY=($(compgen -f -- "$cur")) ;;
    show,1 | grant,1 | revoke,1 | remove,1)
        _h_app_words "$(h-app list 2>/dev/null </dev/null | awk '{ print $1 }')"
        ;;
    grant,* | revoke,*)
        # "granted PERMISSION: REASON"; a permission may hold colons, and bash splits words there.
        _h_app_words "$(h-app show "$name" 2>/dev/null </dev/null | sed -nE 's/^  (not )?granted +([^ ]+): .*/\2/p')"
        ;;
    esac
}
complete -F _h_app h-app
