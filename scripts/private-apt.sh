# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Sourced after steps.sh: an apt that knows only the suites that it is told of, and keeps its lists and downloads in the
# folder APT, in the cache. Nothing of the system changes, and nobody has to be root. The archive's address is the one
# that the machine uses already, its signature is checked with the keyring that it has already.

# archive_uri [-security]: where this machine has Debian's packages from, or its security updates. Before the first
# `apt-get update` apt does not know whose a source is, only where; afterwards it does, whatever the source calls it.
archive_uri() {
    local uri
    uri=$(apt-get update --print-uris 2>/dev/null |
        sed -n "s|^'\(.*\)/dists/$(release_name)${1:-}/InRelease'.*|\1/|p" | head -n 1)
    # shellcheck disable=SC2016
    [[ -n $uri ]] || uri=$(apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
        awk -v label="Debian${1:+-Security}" '$1 == label { print $NF }' | head -n 1)
    printf '%s' "$uri"
}

# What Debian calls its release here: bookworm, trixie; nothing, elsewhere.
release_name() {
    # shellcheck source=/dev/null
    (source "${OS_RELEASE:-/etc/os-release}" 2>/dev/null && [[ ${ID:-} == debian ]] && printf '%s\n' "${VERSION_CODENAME:-}") || true
}

# write_private_apt SUITE...: fails where no Debian archive is known. A machine without Debian's security updates in its
# list is not given them.
write_private_apt() {
    local suite uri
    mkdir -p "$APT"/{sources,lists/partial,cache/archives/partial}
    rm -f "$APT"/sources/*
    : >"$APT/no-packages"
    for suite in "$@"; do
        uri=$(archive_uri "$([[ $suite != *-security ]] || echo -security)")
        [[ -n $uri ]] || { [[ $suite == *-security ]] && continue || return 1; }
        cat >"$APT/sources/$suite.sources" <<-END
			Types: deb
			URIs: $uri
			Suites: $suite
			Components: main
			Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
		END
    done
}

# private_apt COMMAND ARGUMENT...: apt-get or apt-cache, as if no package were installed.
private_apt() {
    local command=$1
    shift
    "$command" -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$APT/sources" \
        -o Dir::State::lists="$APT/lists" -o Dir::State::status="$APT/no-packages" -o Dir::Cache="$APT/cache" \
        -o Acquire::Languages=none -o APT::Sandbox::User=root "$@"
}
