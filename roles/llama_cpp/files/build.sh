# Build llama-server from upstream's source: TARGET URL SHA256 [CMAKE-OPTION...]
# The build tree is kept until it is whole, so an interrupted build goes on where it was.
target=$1 url=$2 sha256=$3
shift 3
archive=$target.source.part
tree=$target.build.part
mkdir -p "$tree/source"
fetch "$url" "$sha256" "$archive" llama_cpp
tar --extract --gzip --file "$archive" --directory "$tree/source" --strip-components=1 --no-same-owner
# An install RPATH of $ORIGIN gives the same layout as a release archive: programs and libraries side by side.
cmake -S "$tree/source" -B "$tree/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DLLAMA_BUILD_TESTS=OFF \
    -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF \
    -DCMAKE_BUILD_WITH_INSTALL_RPATH=ON -DCMAKE_INSTALL_RPATH='$ORIGIN' "$@" >"$tree/cmake.log" 2>&1 || {
    tail -n 20 "$tree/cmake.log" >&2
    echo "llama_cpp/build_backend: CMake could not configure the build; the last lines stand above, all of them in" >&2
    echo "$tree/cmake.log on the host. A backend's compiler (nvcc, glslc, icx) must be installed beforehand." >&2
    exit 1
}
cmake --build "$tree/build" --target llama-server >"$tree/build.log" 2>&1 || {
    tail -n 20 "$tree/build.log" >&2
    echo "llama_cpp/source: the build failed; the last lines stand above, all of them in $tree/build.log on the host." >&2
    exit 1
}
rm -rf "$target.part"
cp -a "$tree/build/bin" "$target.part"
sync -f "$target.part"
mv -T "$target.part" "$target"
rm -rf "$tree" "$archive"
