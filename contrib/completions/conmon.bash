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
        _conmon_offer k8s-file: journald passthrough none off null
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
        --exec-process-spec) _conmon_paths -f ;;
        --restore) _conmon_paths -d ;;
        -b | --bundle) _conmon_paths -d ;;
        -r | --runtime) _conmon_paths -f ;;
        --socket-dir-path) _conmon_paths -d ;;
        -l | --log-path) _conmon_log ;;
        --log-allowlist-dir) _conmon_paths -d ;;
        --exit-dir) _conmon_paths -d ;;
        -0 | --persist-dir) _conmon_paths -d ;;
        --exit-command) _conmon_paths -f ;;
        -P | --conmon-pidfile) _conmon_paths -f ;;
        -p | --container-pidfile | --pidfile) _conmon_paths -f ;;
        --sdnotify-socket) _conmon_paths -f ;;
        --log-level) _conmon_words panic fatal error warn warning info debug trace ;;
        -c | --cid | -u | --cuuid | -n | --name | --runtime-arg | --runtime-opt | --restore-arg | --log-size-max | --log-global-size-max | --log-max-files | --log-tag | --log-label | --exit-command-arg | --exit-delay | -T | --timeout) ;;
        *)
            [[ -z $before ]] || return 0
            _conmon_offer -e --exec --exec-process-spec --exec-attach --restore --version -h --help -c --cid -u --cuuid -n \
                --name -b --bundle --api-version -r --runtime --runtime-arg --runtime-opt -s --systemd-cgroup \
                --no-pivot --no-new-keyring --replace-listen-pid -t --terminal -i --stdin --leave-stdin-open \
                --socket-dir-path --full-attach -l --log-path --log-size-max --log-global-size-max --log-rotate \
                --log-max-files --log-allowlist-dir --log-tag --log-label --no-container-partial-message \
                --no-sync-log --exit-dir -0 --persist-dir --exit-command --exit-command-arg --exit-delay -T \
                --timeout -P --conmon-pidfile -p --container-pidfile --sync --sdnotify-socket --log-level --syslog
            ;;
    esac
}

complete -F _conmon conmon
