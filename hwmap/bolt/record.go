package bolt

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

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
