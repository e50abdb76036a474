// Package witness keeps a hwmap.Mark in a small file beside a host's database, to betray a database that was restored
// or copied: it is written after every commit of the database, without waiting for the disk.
//
// The file has two places of 512 bytes, a disk's least sector, which are written in turn. Wherever a power loss comes, one
// of them is whole, and says what was so a little earlier.
package witness

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"ip6d/addr"
	"ip6d/hwmap"
)

const (
	places    = 2
	placeSize = 512
	version   = 1
)

// What is in a place, in big-endian: the CRC-32C (RFC 3720 appendix B.4) of what follows, version, turn, id, count, block.
const (
	turnAt  = 4 + 4
	idAt    = turnAt + 8
	countAt = idAt + 16
	blockAt = countAt + 8
	size    = blockAt + 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// File is a hwmap.Witness in a file. It is safe for concurrent use.
type File struct {
	path string

	mu   sync.Mutex // guards all below
	file *os.File   // nil: not opened yet
	turn uint64     // of the last write
}

// New returns the witness at path, which need not exist.
func New(path string) *File { return &File{path: path} }

// Read implements hwmap.Witness. Where there is no file, it has been told nothing.
func (f *File) Read() (hwmap.Mark, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	b, err := os.ReadFile(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return hwmap.Mark{}, nil
	}
	if err != nil {
		return hwmap.Mark{}, fmt.Errorf("read witness: %w", err)
	}
	var mark hwmap.Mark
	found := false
	for at := 0; at+size <= len(b); at += placeSize {
		m, turn, ok := decode(b[at : at+size])
		if ok && (!found || turn > f.turn) {
			mark, f.turn, found = m, turn, true
		}
	}
	if !found {
		return mark, fmt.Errorf("read witness %s: %w", f.path, hwmap.ErrCorrupt)
	}
	return mark, nil
}

// Begin implements hwmap.Witness: it replaces the file by another one, which is on the disk before it returns.
func (f *File) Begin(m hwmap.Mark) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.begin(m); err != nil {
		return fmt.Errorf("begin witness: %w", err)
	}
	return nil
}

func (f *File) begin(m hwmap.Mark) (err error) {
	unborn := f.path + ".new"
	file, err := os.OpenFile(unborn, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, file.Close())
		}
	}()
	content := make([]byte, places*placeSize)
	copy(content, encode(m, 0))
	if _, err := file.Write(content); err != nil {
		return err
	}
	if err := file.Sync(); err != nil {
		return err
	}
	if err := os.Rename(unborn, f.path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(f.path))
	if err != nil {
		return err
	}
	if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
		return err
	}
	old := f.file
	f.file, f.turn = file, 0
	if old != nil {
		return old.Close()
	}
	return nil
}

// Raise implements hwmap.Witness: it writes into the file's memory, which outlives the process.
func (f *File) Raise(m hwmap.Mark) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.file == nil {
		file, err := os.OpenFile(f.path, os.O_RDWR, 0)
		if err != nil {
			return fmt.Errorf("write witness: %w", err)
		}
		f.file = file
	}
	turn := f.turn + 1
	if _, err := f.file.WriteAt(encode(m, turn), int64(turn%places)*placeSize); err != nil {
		return fmt.Errorf("write witness: %w", err)
	}
	f.turn = turn
	return nil
}

// Close closes the file.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.file == nil {
		return nil
	}
	err := f.file.Close()
	f.file = nil
	return err
}

func encode(m hwmap.Mark, turn uint64) []byte {
	b := make([]byte, size)
	binary.BigEndian.PutUint32(b[4:], version)
	binary.BigEndian.PutUint64(b[turnAt:], turn)
	copy(b[idAt:], m.ID[:])
	binary.BigEndian.PutUint64(b[countAt:], uint64(m.Count))
	binary.BigEndian.PutUint32(b[blockAt:], uint32(m.Block))
	binary.BigEndian.PutUint32(b, crc32.Checksum(b[4:], castagnoli))
	return b
}

func decode(b []byte) (m hwmap.Mark, turn uint64, ok bool) {
	if binary.BigEndian.Uint32(b) != crc32.Checksum(b[4:size], castagnoli) || binary.BigEndian.Uint32(b[4:]) != version {
		return m, 0, false
	}
	copy(m.ID[:], b[idAt:])
	m.Count = hwmap.Revision(binary.BigEndian.Uint64(b[countAt:]))
	m.Block = addr.Block(binary.BigEndian.Uint32(b[blockAt:]))
	return m, binary.BigEndian.Uint64(b[turnAt:]), true
}
