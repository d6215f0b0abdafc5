# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Sourced: an apt that knows one suite only, and keeps its lists and downloads in the folder APT, in the cache. Nothing of
# the system changes. The archive's address is the one the machine uses already, its signature is checked with the keyring
# it has already.

# write_private_apt SUITE [WHAT TO DO WITHOUT]
write_private_apt() {
    local suite=$1 uri
    # shellcheck disable=SC2016
    uri=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' | head -n 1)
    [[ -n $uri ]] || die "apt knows no Debian archive here${2:+: $2}"
    mkdir -p "$APT"/{sources,lists/partial,cache/archives/partial}
    cat >"$APT/sources/$suite.sources" <<-END
		Types: deb
		URIs: $uri
		Suites: $suite
		Components: main
		Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
	END
}

private_apt() {
    local command=$1
    shift
    "$command" -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$APT/sources" \
        -o Dir::State::lists="$APT/lists" -o Dir::Cache="$APT/cache" -o APT::Sandbox::User=root "$@"
}
