# fish completion for vmctl(1). Candidates, with live VM names, come from vmctl itself.
function __vmctl_complete
	set -l words (commandline -opc)
	set -l candidates (vmctl __complete -- $words[2..] (commandline -ct) 2> /dev/null)

	if test (count $candidates) -gt 0
		printf '%s\n' $candidates
	else
		__fish_complete_path (commandline -ct)
	end
end
# fish has completions for OpenBSD's vmctl: they are loaded now, to be taken away, and not later.
complete -C 'vmctl ' > /dev/null
complete -c vmctl -e
complete -c vmctl -f -a '(__vmctl_complete)'
