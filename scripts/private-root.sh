# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Sourced after private-apt.sh: packages that are unpacked into a folder of the cache, with all that they depend on, and
# used from there. Nothing is installed, nobody has to be root.
#
# A root has the libraries of the release that it was made for, and runs with the system's C library: the same release
# has the same. What is found by an absolute path elsewhere (sysroot, data) is said to each command by its wrapper.

# private_plan OPTION... PACKAGE...: prints name=version of each package and of those that it depends on.
private_plan() {
    LC_ALL=C private_apt apt-get -s install --no-install-recommends "$@" 2>/dev/null |
        awk '$1 == "Inst" { sub(/^\(/, "", $3); print $2 "=" $3 }' | sort
}

# unpack_into ROOT NAME=VERSION...: those that are not there yet. If one is there in another version, all of it anew.
unpack_into() {
    local root=$1 wanted
    shift
    wanted=$(printf '%s\n' "$@" | sort)
    if [[ -f $root/packages ]] && [[ -n $(comm -13 <(printf '%s\n' "$wanted") "$root/packages") ]]; then
        rm -rf "$root"
    fi
    make_root "$root"
    mapfile -t missing_debs < <(comm -23 <(printf '%s\n' "$wanted") "$root/packages")
    ((${#missing_debs[@]})) || return 0
    rm -rf "$APT/debs" && mkdir -p "$APT/debs"
    (cd "$APT/debs" && quietly "$OUT/tools.log" private_apt apt-get download "${missing_debs[@]}")
    unpack_debs "$root" "$APT"/debs/*.deb
    rm -rf "$APT/debs"
    make_links_relative "$root"
    collect_libraries "$root"
    printf '%s\n' "$wanted" >"$root/packages"
}

# With /bin, /lib and so on as links into /usr, which older packages do not know of.
make_root() {
    local folder
    mkdir -p "$1/usr"
    for folder in bin sbin lib lib64; do
        mkdir -p "$1/usr/$folder"
        ln -sfn "usr/$folder" "$1/$folder"
    done
    [[ -f $1/packages ]] || : >"$1/packages"
}

unpack_debs() {
    local root=$1 deb
    shift
    for deb in "$@"; do
        dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$root" --keep-directory-symlink --no-same-owner --wildcards \
            --exclude='./usr/share/doc' --exclude='./usr/share/man' --exclude='./usr/share/locale' --exclude='./dev' \
            --exclude='./var'
    done
    find "$root/usr" -type f -perm /6000 -exec chmod ug-s '{}' +
}

# A link to an absolute path is meant to be below the root.
make_links_relative() {
    local link target
    while IFS= read -r link; do
        target=$(readlink "$link")
        [[ ! -e $1$target ]] || ln -sfnr "$1$target" "$link"
    done < <(find "$1/usr" -type l -lname '/*')
}

# The folder of libraries to look into: all but the C library's own, which belong to the system's loader.
collect_libraries() {
    local root=$1 library
    rm -rf "$root/libraries" && mkdir "$root/libraries"
    while IFS= read -r library; do
        case ${library##*/} in
            ld-linux* | libc.so* | libm.so* | libdl.so* | libpthread.so* | librt.so* | libresolv.so* | libutil.so* | \
                libanl.so* | libmvec.so* | libnss_* | libthread_db.so* | libBrokenLocale.so* | libc_malloc_debug.so*) ;;
            *) ln -sfn "$library" "$root/libraries/${library##*/}" ;;
        esac
    done < <(find "$root/usr/lib/x86_64-linux-gnu" -maxdepth 2 -name 'lib*.so*' | sort -r)
}

# wrap ROOT BIN NAME [ARGUMENT...]: a command BIN/NAME that runs the root's, with these arguments before the others.
wrap() {
    local root=$1 bin=$2 name=$3 path arguments=''
    shift 3
    for path in "$root"/usr/{bin,sbin}/"$name"; do [[ ! -x $path ]] || break; done
    (($# == 0)) || arguments=$(printf ' %q' "$@")
    mkdir -p "$bin"
    {
        printf '#!/bin/sh\n'
        # shellcheck disable=SC2016
        printf 'LD_LIBRARY_PATH=%q${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} exec %q%s "$@"\n' "$root/libraries" "$path" \
            "$arguments"
    } >"$bin/$name"
    chmod +x "$bin/$name"
}
