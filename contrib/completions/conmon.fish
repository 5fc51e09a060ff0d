# Completion of conmon(8) for fish. Made by contrib/generate from the option table; edit that.

function __conmon_log
    set -l word (commandline -ct)
    string match -q -- '--*=*' $word; and set word (string replace -r '^[^=]*=' '' -- $word)
    if string match -q 'k8s-file:*' -- $word
        for path in (__fish_complete_path (string replace 'k8s-file:' '' -- $word))
            echo "k8s-file:$path"
        end
    else
        string split ' ' 'k8s-file: journald passthrough none off null'
        __fish_complete_path $word
    end
end

complete -c conmon -f
complete -c conmon -s e -l exec -d 'Exec a command into a running container'
complete -c conmon -l exec-process-spec -r -F -d 'Path to the process spec for execution'
complete -c conmon -l exec-attach -d 'Attach to an exec session'
complete -c conmon -l restore -x -a '(__fish_complete_directories)' -d 'Restore a container from a checkpoint'
complete -c conmon -l version -d 'Print the version and exit'
complete -c conmon -s h -l help -d 'Show help options'
complete -c conmon -s c -l cid -x -d 'Identification of Container'
complete -c conmon -s u -l cuuid -x -d 'Container UUID'
complete -c conmon -s n -l name -x -d 'Container name'
complete -c conmon -s b -l bundle -x -a '(__fish_complete_directories)' -d 'Location of the OCI Bundle path'
complete -c conmon -l api-version -d 'Conmon API version to use'
complete -c conmon -s r -l runtime -r -F -d 'Path to store runtime data for the container'
complete -c conmon -l runtime-arg -x -d 'Additional arg to pass to the runtime. Can be specified multiple times'
complete -c conmon -l runtime-opt -x -d 'Additional opts to pass to the restore or exec command. Can be specified multiple times'
complete -c conmon -s s -l systemd-cgroup -d 'Enable systemd cgroup manager, rather then use the cgroupfs directly'
complete -c conmon -l no-pivot -d 'Do not use pivot_root'
complete -c conmon -l no-new-keyring -d 'Do not create a new session keyring for the container'
complete -c conmon -l replace-listen-pid -d 'Replace listen pid if set for oci-runtime pid'
complete -c conmon -s t -l terminal -d 'Allocate a pseudo-TTY. The default is false'
complete -c conmon -s i -l stdin -d 'Open up a pipe to pass stdin to the container'
complete -c conmon -l leave-stdin-open -d 'Leave stdin open when attached client disconnects'
complete -c conmon -l socket-dir-path -x -a '(__fish_complete_directories)' -d 'Location of container attach sockets'
complete -c conmon -l full-attach -d 'Don\'t truncate the path to the attach socket. This option causes conmon to ignore --socket-dir-path'
complete -c conmon -s l -l log-path -x -a '(__conmon_log)' -d 'Log file path'
complete -c conmon -l log-size-max -x -d 'Maximum size of log file'
complete -c conmon -l log-global-size-max -x -d 'Maximum size of all log files'
complete -c conmon -l log-rotate -d 'Enable log rotation instead of truncation when log-size-max is reached'
complete -c conmon -l log-max-files -x -d 'Number of backup log files to keep (default: 1)'
complete -c conmon -l log-allowlist-dir -x -a '(__fish_complete_directories)' -d 'Allowed log directory'
complete -c conmon -l log-tag -x -d 'Additional tag to use for logging'
complete -c conmon -l log-label -x -d 'Additional label to include in logs. Can be specified multiple times'
complete -c conmon -l no-container-partial-message -d 'Do not set CONTAINER_PARTIAL_MESSAGE=true for partial lines in journald logs (journald driver only)'
complete -c conmon -l no-sync-log -d 'Do not manually call sync on logs after container shutdown'
complete -c conmon -l exit-dir -x -a '(__fish_complete_directories)' -d 'Path to the directory where exit files are written'
complete -c conmon -s 0 -l persist-dir -x -a '(__fish_complete_directories)' -d 'Persistent directory for a container that can be used for storing container data'
complete -c conmon -l exit-command -r -F -d 'Path to the program to execute when the container terminates its execution'
complete -c conmon -l exit-command-arg -x -d 'Additional arg to pass to the exit command. Can be specified multiple times'
complete -c conmon -l exit-delay -x -d 'Delay before invoking the exit command (in seconds)'
complete -c conmon -s T -l timeout -x -d 'Kill container after specified timeout in seconds'
complete -c conmon -s P -l conmon-pidfile -r -F -d 'PID file for the conmon process'
complete -c conmon -s p -l container-pidfile -r -F -d 'PID file for the initial pid inside of container'
complete -c conmon -l sync -d 'Keep the main conmon process as its child by only forking once'
complete -c conmon -l sdnotify-socket -r -F -d 'Path to the host\'s sd-notify socket to relay messages to'
complete -c conmon -l log-level -x -a 'panic fatal error warn warning info debug trace' -d 'Print debug logs based on log level'
complete -c conmon -l syslog -d 'Log to syslog (use with cgroupfs cgroup manager)'
