# Completion of conmon(8) for fish. Made by contrib/generate from the option table; edit that.

function __conmon_log
    set -l word (commandline -ct)
    string match -q -- '--*=*' $word; and set word (string replace -r '^[^=]*=' '' -- $word)
    if string match -q 'k8s-file:*' -- $word
        for path in (__fish_complete_path (string replace 'k8s-file:' '' -- $word))
            echo "k8s-file:$path"
        end
    else
        string split ' ' '@DRIVERS@'
        __fish_complete_path $word
    end
end

complete -c conmon -f
