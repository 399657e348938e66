# What an image sets for whatever runs in it comes first, then what the image left to the pilot, then what the caller insists on.
# $1...: names that the image may set, /, names that it may not, /, the command. Their values are in BAILEY_H_NAME and BAILEY_S_NAME.
unset PS1
if [ -d /.singularity.d/env ]; then
for BAILEY_0 in /.singularity.d/env/*.sh; do
if [ -f "$BAILEY_0" ] && [ -r "$BAILEY_0" ]; then
. "$BAILEY_0"
case $BAILEY_0 in
*/10-docker*.sh)
for BAILEY_1 in /usr/local/sbin /usr/local/bin /usr/sbin /usr/bin /sbin /bin; do
case ":$PATH:" in *":$BAILEY_1:"*) ;; *) PATH=$PATH:$BAILEY_1 ;; esac
done ;;
esac
fi
done
else
. /environment
fi
set +eu
while [ "$1" != / ]; do
eval "[ -n \"\${$1+x}\" ] || command export $1=\"\$BAILEY_H_$1\"; unset BAILEY_H_$1"
shift
done
shift
while [ "$1" != / ]; do
eval "command export $1=\"\$BAILEY_S_$1\"; unset BAILEY_S_$1"
shift
done
shift
[ -n "${PS1-}" ] || PS1='Apptainer> '
[ -z "${BAILEY_BEFORE-}" ] || PATH=$BAILEY_BEFORE:$PATH
[ -z "${BAILEY_BEHIND-}" ] || PATH=$PATH:$BAILEY_BEHIND
[ -z "${BAILEY_PATH-}" ] || PATH=$BAILEY_PATH
export PATH PS1
unset BAILEY_0 BAILEY_1 BAILEY_BEFORE BAILEY_BEHIND BAILEY_PATH
# What is named by its path was looked at before; this is for names, and for a missing interpreter. Not every shell comes to its trap
# by itself.
shopt -s execfail 2>/dev/null
trap 'echo "FATAL:   bailey[127]: cannot run the command: it, its interpreter or its loader is not in the image" >&2; exit 255' EXIT
case $1 in
*/*) ;;
*) command -v "$1" >/dev/null 2>&1 || exit ;;
esac
exec "$@"
exit
