# bash completion for vmctl(1). Candidates, with live VM names, come from vmctl itself.
_vmctl()
{
	local line lines

	COMPREPLY=()
	mapfile -t lines < <(vmctl __complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2> /dev/null)
	for line in "${lines[@]}"; do
		COMPREPLY+=("${line%%$'\t'*}")
	done
	# A field of a definition goes on behind it.
	[[ ${#COMPREPLY[@]} -gt 0 && ${COMPREPLY[0]} == *[=.] ]] && compopt -o nospace 2> /dev/null
	return 0
}
complete -o default -F _vmctl vmctl
