package harness

// Both include folders of Debian's architectures are named, as clang looks into neither for this target.
//go:generate go tool -modfile=../../../tools/go.mod bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel Program harness.c -- -O2 -g -Wall -Werror -mcpu=v3 -fno-strict-aliasing -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu
