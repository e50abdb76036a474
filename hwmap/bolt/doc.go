// Package bolt keeps a hwmap.Store in one file on the local disk: a host's own truth, its cache of the fleet's map,
// and, standalone, the fleet's store itself.
//
// The file is a bbolt database with three buckets:
//
//	format    "version", "id" of this database, "revision" of the last transaction, when it was "compacted"
//	records   each record by its key
//	held      the keys of Hold, with the revision that put them; the next Open deletes what a dead process held
//
// Every value carries its revision and a checksum of key, revision and content, because bbolt itself checks nothing but
// its two meta pages. A transaction is on the disk (fdatasync) before Commit returns. Transactions that arrive together
// share one write of the file, each with a revision of its own.
//
// bbolt gives no space back, so a file that was once large stays so: Compact makes it small again while it is in use, and
// Run does that by itself.
//
// The file is complete from the first moment it has its name: a new one is written beside it and renamed. So an empty
// or half file at the path is never taken for a new database, but refused as a corrupt one.
package bolt
