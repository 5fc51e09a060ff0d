#!/bin/sh
# Prints the commit that is being built, with "-dirty" behind it when tracked files have been changed.
cd "$(dirname "$0")/.." || exit 1
# `git archive` puts the commit here (.gitattributes): a source package may lie in another project's repository.
archived='$Format:%H$'
case $archived in
'$'*) ;;
*) echo "$archived"; exit 0 ;;
esac
commit=$(git rev-parse HEAD 2>/dev/null) || { echo unknown; exit 0; }
[ -z "$(git status --porcelain --untracked-files=no 2>/dev/null)" ] || commit=$commit-dirty
echo "$commit"
