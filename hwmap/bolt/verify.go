package bolt

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
	"os"

	"ip6d/hwmap"
)

// bbolt trusts its file: a page that points nowhere makes it panic, fault or, worst, write over records. So the file is
// read once by this before bbolt maps it, as plain bytes, believing nothing. The layout is that of bbolt's
// internal/common; numbers are in the machine's byte order.
const (
	pageHeader  = 16 // id (8 bytes), flags (2), count (2), overflow (4)
	elementSize = 16 // of leaf and branch elements alike
	metaSize    = 64 // with its checksum, which is the last 8 bytes
	bucketSize  = 16 // root page (8), sequence (8)

	branchPage   = 0x01
	leafPage     = 0x02
	freelistPage = 0x10
	bucketLeaf   = 0x01 // flag of a leaf element that is a bucket

	boltMagic   = 0xED0CDAED
	boltVersion = 2
	noFreelist  = ^uint64(0)

	minPageSize, maxPageSize = 1 << 10, 1 << 24
)

var order = binary.NativeEndian

// meta is what a meta page says.
type meta struct {
	pageSize uint64
	root     uint64 // page of the root bucket
	freelist uint64 // page
	high     uint64 // all pages are below
	txid     uint64
}

// findings is what verify learns of a good file.
type findings struct {
	torn        bool // only one of the two meta pages is valid, as a power loss during a write leaves it
	pages, free int  // all, and those of them that hold nothing
	pageSize    int
}

// verify checks the structure of a bbolt file of that size: each page is in the file and used exactly once, keys are in
// order. The error wraps hwmap.ErrCorrupt, or is that of reading.
func verify(f io.ReaderAt, size int64) (findings, error) {
	v, err := newVerifier(f, size)
	if err != nil {
		return findings{}, err
	}
	return v.verify()
}

// newVerifier reads the meta pages.
func newVerifier(f io.ReaderAt, size int64) (*verifier, error) {
	v := &verifier{f: f, size: uint64(size)}
	m0, err := v.readMeta(0)
	if err != nil {
		return nil, err
	}
	m1, err := v.secondMeta(m0)
	if err != nil {
		return nil, err
	}
	switch {
	case m0 == nil && m1 == nil:
		return nil, corrupt("neither meta page is valid")
	case m0 == nil || m1 != nil && m1.txid > m0.txid:
		v.meta = *m1
	default:
		v.meta = *m0
	}
	v.torn = m0 == nil || m1 == nil
	if v.high < 2 || v.high > v.size/v.pageSize {
		return nil, corrupt("it is truncated: %d bytes, but %d pages of %d bytes belong to it", size, v.high, v.pageSize)
	}
	return v, nil
}

// verify walks the pages.
func (v *verifier) verify() (findings, error) {
	v.used = make([]bool, v.high)
	v.used[0], v.used[1] = true, true
	if err := v.tree(v.root, nil); err != nil {
		return findings{}, err
	}
	free, err := v.free()
	return findings{torn: v.torn, pages: len(v.used), free: free, pageSize: int(v.pageSize)}, err
}

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{hwmap.ErrCorrupt}, args...)...)
}

type verifier struct {
	f    io.ReaderAt
	size uint64
	meta
	torn bool
	used []bool // by page
}

// read returns n bytes at the offset, or nil where the file has no such bytes.
func (v *verifier) read(offset, n uint64) ([]byte, error) {
	if offset > v.size || n > v.size-offset {
		return nil, nil
	}
	b := make([]byte, n)
	_, err := v.f.ReadAt(b, int64(offset))
	return b, err
}

// readMeta returns the meta page at the offset, or nil where there is no valid one.
func (v *verifier) readMeta(offset uint64) (*meta, error) {
	b, err := v.read(offset+pageHeader, metaSize)
	if b == nil || err != nil {
		return nil, err
	}
	sum := fnv.New64a()
	sum.Write(b[:metaSize-8])
	m := &meta{
		pageSize: uint64(order.Uint32(b[8:])),
		root:     order.Uint64(b[16:]),
		freelist: order.Uint64(b[32:]),
		high:     order.Uint64(b[40:]),
		txid:     order.Uint64(b[48:]),
	}
	if order.Uint32(b) != boltMagic || order.Uint32(b[4:]) != boltVersion || order.Uint64(b[56:]) != sum.Sum64() ||
		m.pageSize < minPageSize || m.pageSize > maxPageSize || m.pageSize&(m.pageSize-1) != 0 {
		return nil, nil
	}
	return m, nil
}

// secondMeta finds the meta page that follows the first one. Where the first does not tell the page size, that of this
// machine is most likely, and bbolt tries them all too.
func (v *verifier) secondMeta(first *meta) (*meta, error) {
	if first != nil {
		return v.readMeta(first.pageSize)
	}
	for _, offset := range append([]uint64{uint64(os.Getpagesize())}, pageSizes()...) {
		if m, err := v.readMeta(offset); err != nil || m != nil && m.pageSize == offset {
			return m, err
		}
	}
	return nil, nil
}

func pageSizes() (sizes []uint64) {
	for n := uint64(minPageSize); n <= maxPageSize; n *= 2 {
		sizes = append(sizes, n)
	}
	return sizes
}

// page reads a page with its overflow pages, and marks them used.
func (v *verifier) page(id uint64) ([]byte, error) {
	if id < 2 || id >= v.high {
		return nil, corrupt("page %d is not one of its %d pages", id, v.high)
	}
	head, err := v.read(id*v.pageSize, pageHeader)
	if err != nil {
		return nil, err
	}
	overflow := uint64(order.Uint32(head[12:]))
	if order.Uint64(head) != id || overflow >= v.high-id {
		return nil, corrupt("page %d has a wrong header", id)
	}
	for i := id; i <= id+overflow; i++ {
		if v.used[i] {
			return nil, corrupt("page %d is used twice", i)
		}
		v.used[i] = true
	}
	return v.read(id*v.pageSize, (overflow+1)*v.pageSize)
}

// tree walks the pages below id, whose keys are not below first.
func (v *verifier) tree(id uint64, first []byte) error {
	p, err := v.page(id)
	if err != nil {
		return err
	}
	return v.elements(p, id, first)
}

// elements walks a branch or leaf page; p may be one that is inside a value (an inline bucket).
func (v *verifier) elements(p []byte, id uint64, first []byte) error {
	flags, count := order.Uint16(p[8:]), uint64(order.Uint16(p[10:]))
	if flags != branchPage && flags != leafPage {
		return corrupt("page %d is neither branch nor leaf", id)
	}
	if flags == branchPage && count == 0 || pageHeader+count*elementSize > uint64(len(p)) {
		return corrupt("page %d has a wrong count of %d", id, count)
	}
	// The contents follow the elements without a gap, so that a wrong count shows.
	next := pageHeader + count*elementSize
	for i := range count {
		// A leaf element is flags, offset, key size, value size (4 bytes each); a branch element is offset, key size (4 bytes
		// each), page (8). The offset counts from the element itself.
		start := pageHeader + i*elementSize
		e := p[start:][:elementSize]
		offset, keySize, valueSize := order.Uint32(e[4:]), order.Uint32(e[8:]), order.Uint32(e[12:])
		if flags == branchPage {
			offset, keySize, valueSize = order.Uint32(e), order.Uint32(e[4:]), 0
		}
		from := next
		next += uint64(keySize) + uint64(valueSize)
		if start+uint64(offset) != from || next > uint64(len(p)) {
			return corrupt("page %d has an element in a wrong place", id)
		}
		key, value := p[from:][:keySize], p[from+uint64(keySize):][:valueSize]
		if order := bytes.Compare(key, first); order < 0 || order == 0 && i > 0 {
			return corrupt("page %d has its keys out of order", id)
		}
		first = key
		var err error
		switch {
		case flags == branchPage:
			err = v.tree(order.Uint64(e[8:]), key)
		case order.Uint32(e) == bucketLeaf:
			err = v.bucket(value, id)
		case order.Uint32(e) != 0:
			err = corrupt("page %d has an unknown kind of element", id)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// bucket walks a bucket from its value in the leaf page id. A small one has its only page in the value.
func (v *verifier) bucket(value []byte, id uint64) error {
	if len(value) < bucketSize {
		return corrupt("page %d has a broken bucket", id)
	}
	if root := order.Uint64(value); root != 0 {
		return v.tree(root, nil)
	}
	if inline := value[bucketSize:]; len(inline) >= pageHeader && order.Uint16(inline[8:]) == leafPage {
		return v.elements(inline, id, nil)
	}
	return corrupt("page %d has a broken bucket", id)
}

// free walks the list of free pages: none is in use, and with them every page is accounted for. It returns how many there are.
func (v *verifier) free() (int, error) {
	if v.freelist == noFreelist {
		return 0, nil // bbolt makes one from the pages that are not in use
	}
	p, err := v.page(v.freelist)
	if err != nil {
		return 0, err
	}
	ids, count := p[pageHeader:], uint64(order.Uint16(p[10:]))
	if count == 0xffff { // the true count is too large for the header
		count, ids = order.Uint64(ids), ids[8:]
	}
	if order.Uint16(p[8:]) != freelistPage || count > uint64(len(ids))/8 {
		return 0, corrupt("page %d is no list of free pages", v.freelist)
	}
	for i := range count {
		id := order.Uint64(ids[i*8:])
		if id >= v.high || v.used[id] {
			return 0, corrupt("page %d is listed as free, but is in use", id)
		}
		v.used[id] = true
	}
	for id, used := range v.used {
		if !used {
			return 0, corrupt("page %d is neither in use nor free", id)
		}
	}
	return int(count), nil
}
