package hwmap

import (
	"fmt"
	"strconv"
	"strings"

	"ip6d/addr"
)

// The keys of the fleet's store, below its cluster. Numbers are decimal.
const (
	metaKey        Key = "meta"
	mapPrefix      Key = "map/" // what every host lists and watches
	hostsPrefix    Key = mapPrefix + "hosts/"
	blocksPrefix   Key = mapPrefix + "blocks/"
	machinesPrefix Key = mapPrefix + "machines/"
	alivePrefix    Key = "alive/"
	appliedPrefix  Key = "applied/"
	witnessPrefix  Key = "witness/" // how far the truth of a host had come; no lease takes it away
)

// The keys of the truth.
const (
	localPrefix   Key = "local/machines/"
	historyKey    Key = "history" // the highest number of an event that was pruned
	historyPrefix Key = "history/"
	notedPrefix   Key = "noted/hosts/" // the state of each host, as the history told of it last
	homesPrefix   Key = "homes/"       // of blocks that this host was given: the block's epoch that its Locals are complete for
)

// The key of the cache that says which revision of the fleet's store its records are of.
const revisionKey Key = "revision"

// The key of the cache that says when its records were last known to be the fleet's map.
const heardKey Key = "heard"

func hostKey(h addr.Host) Key           { return numbered(hostsPrefix, uint32(h)) }
func blockKey(b addr.Block) Key         { return numbered(blocksPrefix, uint32(b)) }
func machineKey(m addr.Machine) Key     { return numbered(machinesPrefix, uint32(m)) }
func aliveKey(h addr.Host) Key          { return numbered(alivePrefix, uint32(h)) }
func appliedKey(h addr.Host) Key        { return numbered(appliedPrefix, uint32(h)) }
func witnessKey(h addr.Host) Key        { return numbered(witnessPrefix, uint32(h)) }
func localKey(m addr.Machine) Key       { return numbered(localPrefix, uint32(m)) }
func homeKey(b addr.Block) Key          { return numbered(homesPrefix, uint32(b)) }
func notedKey(h addr.Host) Key          { return numbered(notedPrefix, uint32(h)) }
func numbered(prefix Key, n uint32) Key { return prefix + Key(strconv.FormatUint(uint64(n), 10)) }

// number returns the number after prefix in k.
func (k Key) number(prefix Key) (uint32, error) {
	digits, ok := strings.CutPrefix(string(k), string(prefix))
	n, err := strconv.ParseUint(digits, 10, 32)
	if !ok || err != nil || strconv.FormatUint(n, 10) != digits {
		return 0, fmt.Errorf("%w: key %q is not %sNUMBER", errMalformed, k, prefix)
	}
	return uint32(n), nil
}

// eventKey is the key of an event. Its number has all its digits, so that keys are ordered as events are.
func eventKey(seq uint64) Key { return Key(fmt.Sprintf("%s%020d", historyPrefix, seq)) }

// seq returns the number of the event with that key.
func (k Key) seq() (uint64, error) {
	digits, ok := strings.CutPrefix(string(k), string(historyPrefix))
	n, err := strconv.ParseUint(digits, 10, 64)
	if !ok || err != nil || eventKey(n) != k {
		return 0, fmt.Errorf("%w: key %q is not of an event", errMalformed, k)
	}
	return n, nil
}
