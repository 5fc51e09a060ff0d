# Completion of conmon(8) for bash. Made by contrib/generate from the option table; edit that.
#
# Words are taken from the line itself: bash splits --log-path=k8s-file:/tmp/x at the equals sign and the colon, so each
# word that is offered is cut off behind the last of these.

# _conmon_offer WORD…: what begins with $value, as bash wants it.
_conmon_offer() {
    local word cut='' breaks=${COMP_WORDBREAKS//[^:=]/}
    [[ -z $breaks || $typed != *[$breaks]* ]] || cut=${typed%"${typed##*[$breaks]}"}
    for word; do
        [[ $word != "$value"* ]] || { word=$before$word && COMPREPLY+=("${word#"$cut"}"); }
    done
}

_conmon_words() { _conmon_offer "$@"; }

# _conmon_paths -f|-d: files and directories, or directories alone.
_conmon_paths() {
    local -a paths
    mapfile -t paths < <(compgen "$1" -- "$value")
    compopt -o filenames 2>/dev/null
    _conmon_offer "${paths[@]}"
}

_conmon_log() {
    if [[ $value == k8s-file:* ]]; then
        before+=k8s-file: value=${value#k8s-file:}
        _conmon_paths -f
    elif [[ $value == */* ]]; then
        _conmon_paths -f
    else
        _conmon_offer @DRIVERS@
        [[ ${#COMPREPLY[@]} != 1 || ${COMPREPLY[0]} != *: ]] || compopt -o nospace 2>/dev/null
    fi
}

_conmon() {
    local line=${COMP_LINE:0:COMP_POINT} typed option before='' value
    typed=${line##*[[:space:]]}
    line=${line%"$typed"}
    line=${line%"${line##*[![:space:]]}"}
    option=${line##*[[:space:]]} value=$typed
    if [[ $typed == --*=* ]]; then
        option=${typed%%=*} before=${typed%%=*}= value=${typed#*=}
    fi
    COMPREPLY=()
    case $option in
@CASES@
        @UNKNOWN@) ;;
        *)
            [[ -z $before ]] || return 0
            _conmon_offer @NAMES@
            ;;
    esac
}

complete -F _conmon conmon
