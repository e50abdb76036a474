// Package bpf is the translation datapath's programs and maps, compiled. The C is in this folder: start at
// ip6d.c; ip6d.h is what the programs share with package nat. The generated files are committed, so that
// building needs no clang; `make generate` makes them again, byte for byte.
package bpf

// Both include folders of Debian's architectures are named, as clang looks into neither for this target.
//go:generate go tool -modfile=../tools/go.mod bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel Datapath ip6d.c -- -O2 -g -Wall -Werror -mcpu=v3 -fno-strict-aliasing -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu
