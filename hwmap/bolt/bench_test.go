package bolt

import (
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"

	"ip6d/hwmap"
)

// BenchmarkCommit is what a create costs: one record, on the disk. With many at once they share the fsync.
func BenchmarkCommit(b *testing.B) {
	for _, writers := range []int{1, 16} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			s := openBench(b)
			b.SetParallelism(writers)
			var n atomic.Int64
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					key := hwmap.Key(fmt.Sprintf("local/%d", n.Add(1)))
					if _, err := s.Commit(b.Context(), hwmap.Txn{Then: []hwmap.Write{{Key: key, Value: make([]byte, 200)}}}); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}

// BenchmarkCommitListing is what writing a whole listing of the fleet's map to the cache costs.
func BenchmarkCommitListing(b *testing.B) {
	s, txn := openBench(b), thousands(5000)
	for b.Loop() {
		if _, err := s.Commit(b.Context(), txn); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkOpen is what a start costs with that many records.
func BenchmarkOpen(b *testing.B) {
	path := filepath.Join(b.TempDir(), "bench.db")
	s, err := Open(Options{Path: path})
	if err != nil {
		b.Fatal(err)
	}
	if _, err := s.Commit(b.Context(), thousands(50000)); err != nil {
		b.Fatal(err)
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		s, err := Open(Options{Path: path})
		if err != nil {
			b.Fatal(err)
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func openBench(b *testing.B) *Store {
	b.Helper()
	s, err := Open(Options{Path: filepath.Join(b.TempDir(), "bench.db")})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	})
	return s
}
