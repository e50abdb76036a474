package hwmap

import "errors"

// What a Store returns. Adapters wrap these with what they were doing.
var (
	// ErrConflict: a condition of the transaction did not hold. Nothing was written.
	ErrConflict = errors.New("record changed meanwhile")

	// ErrUnavailable: the store did not answer, and nothing was written.
	ErrUnavailable = errors.New("store unreachable")

	// ErrInDoubt: the call failed after the transaction was sent. It may have been committed, or may still be.
	ErrInDoubt = errors.New("outcome unknown")

	// ErrRestored: the store is another one than answered before, or has gone back in time. ID goes on with it.
	ErrRestored = errors.New("store was restored or replaced")

	// ErrOtherStore: with ErrRestored, it is another one; the right one may come back.
	ErrOtherStore = errors.New("another store answers")

	// ErrCompacted: the watch asked for a revision that the store no longer has. List again.
	ErrCompacted = errors.New("revision compacted")

	// ErrCorrupt: the database file cannot be read as one.
	ErrCorrupt = errors.New("database is corrupt")

	// ErrNewerFormat: the database was written by a newer ip6d.
	ErrNewerFormat = errors.New("database has a newer format")

	// ErrLocked: another process holds the database file.
	ErrLocked = errors.New("database is in use")
)

// What a Map returns.
var (
	// ErrUsage: an argument is wrong in itself.
	ErrUsage = errors.New("wrong argument")

	// ErrUnknownMachine: no machine of that name or number is known to this host.
	ErrUnknownMachine = errors.New("unknown machine")

	// ErrUnknownHost: no host of that name or id is known to this host.
	ErrUnknownHost = errors.New("unknown host")

	// ErrUnknownDatabase: this host has no database of that name.
	ErrUnknownDatabase = errors.New("unknown database")

	// ErrNameTaken: a machine of that name exists in another network.
	ErrNameTaken = errors.New("name is taken")

	// ErrAttached: the machine has another port.
	ErrAttached = errors.New("already attached")

	// ErrState: the machine is not in a state in which that can be done.
	ErrState = errors.New("not possible now")

	// ErrNotReady: the target of a migration is not ready for the switchover.
	ErrNotReady = errors.New("target is not ready")

	// ErrCommitted: the switchover was committed and cannot be aborted any more.
	ErrCommitted = errors.New("already committed")

	// ErrLagging: some live hosts have not applied the switchover yet.
	ErrLagging = errors.New("hosts have not followed yet")

	// ErrRequest: the request's id was given to another call before.
	ErrRequest = errors.New("request id is taken")

	// ErrExpired: the token is older than the events that are kept, or of another database. Begin anew, with a snapshot.
	ErrExpired = errors.New("token has expired")

	// ErrStandalone: the host belongs to no fleet, so there is nowhere to migrate to.
	ErrStandalone = errors.New("host is standalone")

	// ErrFenced: this host was declared dead.
	ErrFenced = errors.New("this host was declared dead")

	// ErrClaimed: another server claimed the host id.
	ErrClaimed = errors.New("host id is claimed by another server")

	// ErrRemoved: an operator removed this host from the fleet.
	ErrRemoved = errors.New("this host was removed from the fleet")

	// ErrNotOwner: the host's database was made under other settings: another host, cell, prefixes or cluster.
	ErrNotOwner = errors.New("this host's database is not of these settings")

	// ErrSuspect: this host's database, or the fleet's store, may be an older copy. Nothing is issued or moved on its word
	// until an operator accepts it.
	ErrSuspect = errors.New("suspect")

	// ErrDisagree: the fleet's store was set up with other prefixes, another cell or a newer format.
	ErrDisagree = errors.New("the fleet's store disagrees with this host's settings")
)

// errUnlisted: this host's own record has gone from the fleet's store.
var errUnlisted = errors.New("the record of this host has gone from the store")

// errMalformed: a record cannot be read. It is logged and left alone, so that one bad record stops nothing else.
var errMalformed = errors.New("malformed record")
