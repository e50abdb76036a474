package bolt

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"go.etcd.io/bbolt"

	"ip6d/hwmap"
)

// A value in the file: checksum (4 bytes), revision (8 bytes), content; both numbers big-endian. The checksum is
// CRC-32C (RFC 3720 appendix B.4) of key, revision and content.
const recordHeader = 4 + 8

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func encode(key string, revision hwmap.Revision, value []byte) []byte {
	b := make([]byte, recordHeader, recordHeader+len(value))
	binary.BigEndian.PutUint64(b[4:], uint64(revision))
	b = append(b, value...)
	binary.BigEndian.PutUint32(b, checksum(key, b))
	return b
}

// decode returns the value as a slice of b. It is not nil, also where it is empty.
func decode(key string, b []byte) (hwmap.Revision, []byte, error) {
	if len(b) < recordHeader || binary.BigEndian.Uint32(b) != checksum(key, b) {
		return 0, nil, fmt.Errorf("%w: record %q has a wrong checksum", hwmap.ErrCorrupt, key)
	}
	return hwmap.Revision(binary.BigEndian.Uint64(b[4:])), b[recordHeader:], nil
}

func checksum(key string, b []byte) uint32 {
	return crc32.Update(crc32.Checksum([]byte(key), castagnoli), castagnoli, b[4:])
}

// head is the content of the record at revisionKey, which every transaction of the file writes.
type head struct {
	revision hwmap.Revision // of the last transaction
	txid     uint64         // bbolt's number of the write that made this head
	sum      uint64         // of the checksums of all records
}

const headSize = 8 + 8

// write puts h into the file as part of tx.
func (h head) write(tx *bbolt.Tx) error {
	b := binary.BigEndian.AppendUint64(nil, uint64(tx.ID()))
	b = binary.BigEndian.AppendUint64(b, h.sum)
	return tx.Bucket(formatBucket).Put([]byte(revisionKey), encode(revisionKey, h.revision, b))
}

func readHead(tx *bbolt.Tx) (head, error) {
	r, b, err := decode(revisionKey, tx.Bucket(formatBucket).Get([]byte(revisionKey)))
	if err == nil && len(b) != headSize {
		err = fmt.Errorf("%w: record %q has %d bytes", hwmap.ErrCorrupt, revisionKey, len(b))
	}
	if err != nil {
		return head{}, err
	}
	return head{r, binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}, nil
}

// part is what a record adds to head.sum. v is its value in the file, nil where there is none.
func part(v []byte) uint64 {
	if v == nil {
		return 0
	}
	return uint64(binary.BigEndian.Uint32(v))
}
