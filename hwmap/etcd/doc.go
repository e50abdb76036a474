// Package etcd keeps a hwmap.Store in an etcd cluster: the fleet's map, one cluster per cell.
//
// Keys live under /ip6d/CLUSTER/. A record's ModRevision is etcd's own, a hwmap.Txn is one etcd transaction that compares
// ModRevisions, and a hwmap.Batch is what one etcd transaction changed. Revisions are those of the whole etcd cluster, so
// they have gaps where others write.
//
// A failed call says strictly what is known of it. Whether a request has left this process is asked of gRPC (call.go);
// after that, only errors that etcd gives before it proposes a transaction mean that nothing was written, all others that
// the outcome is unknown. The client never sends a write twice on its own: a repeated one could conflict with itself.
//
// A watch is one gRPC stream, and ends when that breaks. The client library would resume it elsewhere in silence, also on
// a cluster that was restored from a backup.
package etcd
