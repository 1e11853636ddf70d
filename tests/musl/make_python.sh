#!/bin/sh
# Builds a Python that runs on musl instead of glibc, with NumPy, into the given folder: for test_loader.py.
#
#   tests/musl/make_python.sh build/musl     x86-64 Debian with gcc, make and pip; some minutes, no privileges
#
# Packages and sources are those of one Debian release, through this machine's mirror; nothing is installed.
set -eu
release=bookworm
mkdir -p "$1" && cd "$1"
[ ! -e .complete ] || exit 0
work=$PWD root=$PWD/root prefix=$PWD/python

# Packages and sources.
mkdir -p apt/lists/partial apt/cache/archives/partial && : > apt/status
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -v security | head -n 1)
signed="[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"
printf 'deb %s %s %s main\ndeb-src %s %s %s main\n' "$signed" "$mirror" $release "$signed" "$mirror" $release > apt/sources.list
apt() {
    apt-get -qq -oDir::State::Lists="$work/apt/lists" -oDir::State::status="$work/apt/status" -oDir::Cache="$work/apt/cache" \
        -oDir::Etc::sourcelist="$work/apt/sources.list" -oDir::Etc::sourceparts=- -oAPT::Sandbox::User= "$@"
}
apt update
apt download musl:amd64 musl-dev:amd64 linux-libc-dev:amd64
apt --download-only source python3.11 libffi
for package in *.deb; do dpkg -x "$package" root; done
for archive in *.orig.tar.*; do tar xf "$archive"; done

# gcc with musl's headers and library in place of glibc's, and the kernel's headers.
library=$root/usr/lib/x86_64-linux-musl include=$root/usr/include/x86_64-linux-musl
ln -sfn ../linux "$include/linux" && ln -sfn ../asm-generic "$include/asm-generic"
ln -sfn ../x86_64-linux-gnu/asm "$include/asm"
sed "s#/usr/#$root/usr/#g; s#-dynamic-linker /lib/#-dynamic-linker $root/lib/#" "$library/musl-gcc.specs" > specs
cat > cc <<END
#!/bin/sh
case "\$*" in *print-multiarch*) echo x86_64-linux-musl; exit ;; esac
exec gcc "\$@" -specs "$work/specs"
END
chmod +x cc
ln -sfn "$root/lib/ld-musl-x86_64.so.1" "$library/libc.so"
export CC="$work/cc"

(cd libffi-*/ && CFLAGS="-O1 -fPIC" ./configure --disable-shared --disable-docs --prefix="$prefix" \
    --host=x86_64-linux-musl --build=x86_64-linux-gnu && make -j2 && make install) > libffi.log 2>&1
(cd Python-3.11*/ && CFLAGS=-O1 CPPFLAGS="-I$prefix/include" LDFLAGS="-L$prefix/lib" PKG_CONFIG=false \
    LIBFFI_INCLUDEDIR="$prefix/include" ./configure --prefix="$prefix" --without-ensurepip --disable-test-modules \
    && make -j2 && make install) > python.log 2>&1

# Wheels for musllinux_1_2 have relocations that this musl does not know yet.
python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --only-binary=:all: \
    --platform musllinux_1_1_x86_64 --implementation cp --python-version 3.11 --target site 'numpy<2'
PYTHONPATH="$work/site" "$prefix/bin/python3.11" -c 'import ctypes, numpy'
rm -rf apt Python-3.11* libffi-* ./*.deb ./*.dsc ./*.tar.*
touch .complete
