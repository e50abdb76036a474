package audit

// meaning is what a kind of difference stands for.
type meaning struct {
	severity   Severity
	repairable bool // by `ip6d repair`; else an operator decides
	cause      string
	remedy     string
}

const (
	byRepair  = "ip6d repair"
	byOwner   = "the host that has the machine publishes its record again by itself; check there"
	byAttach  = "attach the machine again, with the same namespace or device: ip6d machine attach NAME ..."
	tampered  = "somebody or something else than ip6d changed the kernel's map"
	restarted = "restart the daemon: packets go on, and it reads its truth again; then report this"
)

var meanings = map[Kind]meaning{
	TruthDiffers: {Error, false, "the daemon's memory is not what its file says: a fault of ip6d, or the file was changed under it", restarted},
	EntryMissing: {Error, true, tampered + ": packets for the machine are refused, or go to another host", byRepair},
	EntryDiffers: {Error, true, tampered, byRepair},
	EntryStray:   {Warning, true, "a crash between the kernel's map and the truth, or " + tampered, byRepair},

	StoreUnreachable:  {Warning, false, "the fleet's store does not answer", "look at the store and the way to it; `ip6d status` says more. This host was compared with its cache"},
	StoreNotFollowed:  {Warning, false, "the watch of the fleet's store broke, and was not begun again", "`ip6d status` says why"},
	ViewDiffers:       {Error, true, "a change of the store did not reach this host", byRepair},
	CacheDiffers:      {Warning, true, "the cache was not written, or was restored from a copy; it counts when this host starts without the store", byRepair},
	MovedMissing:      {Error, true, tampered + ", or there was no room: packets take the way by the machine's home", byRepair},
	MovedDiffers:      {Error, true, tampered + ": packets take the way by another host", byRepair},
	MovedStray:        {Error, true, "a crash, an older daemon, or " + tampered + ": packets go astray", byRepair},
	BlockMissing:      {Error, true, tampered + ", or there was no room: packets for its machines are refused", byRepair},
	BlockDiffers:      {Error, true, tampered + ": packets go to a host that is not the home", byRepair},
	BlockStray:        {Warning, true, "a crash, an older daemon, or " + tampered, byRepair},
	BlockCountDiffers: {Error, true, tampered + ": where a count is too low, an entry is not looked for", byRepair},
	DeadMissing:       {Error, true, tampered + ": what a dead host sends is carried, and another host may have its machines", byRepair},
	DeadStray:         {Error, true, "a crash, or " + tampered + ": what that host sends is refused (dead_host), and it is not dead", byRepair},
	FenceDiffers:      {Error, true, tampered + ": this host carries nothing, or should not", byRepair},

	RecordMalformed:     {Error, false, "it was written by hand, or by another program than ip6d", "correct or delete the key in the store"},
	OwnerUnknown:        {Error, false, "the machine's host was taken out of the store by hand, or never joined", "start the host's daemon again, so that it joins; or mark it dead and claim the machine: ip6d migrate claim NAME --force --network N --address ADDRESS"},
	OwnerDead:           {Warning, false, "the machine was on a host that is dead now", "claim it where it is to run: ip6d migrate claim NAME --force --network N --address ADDRESS; or destroy it"},
	TargetUnknown:       {Warning, false, "the target of its migration has gone from the fleet", "abort the migration on the machine's host: ip6d migrate abort NAME"},
	HomeUnknown:         {Error, false, "the home was taken out of the store by hand, while blocks pointed at it", "start the home's daemon again, so that it joins; or mark it dead, so that its blocks are adopted: ip6d host dead HOST"},
	HomeDead:            {Warning, false, "the home is dead, and nobody has adopted its block yet", "ip6d host adopt HOST"},
	BlockUnrecorded:     {Error, false, "the block's record was taken out of the store, and its home has not published it again", "start the home's daemon: it publishes its blocks again"},
	BlockUnpublished:    {Warning, true, "the record of this host's block has gone from the store", byRepair},
	BlockFrozen:         {Info, false, "it was adopted from a dead host, so which of its ids are in use is not known", "when no machine of the dead host can come back: ip6d block unfreeze --block BLOCK"},
	MachineUnrecorded:   {Error, true, "its record was taken out of the store", byRepair},
	MachineDisputed:     {Error, false, "the store says that another host owns it, or that it was destroyed: it was claimed, or this host's database is an old copy", "find out where the machine really runs, and detach it everywhere else"},
	MachineNotHere:      {Error, false, "the store says that the machine is here, and this host's truth does not have it: is the database an old copy, or a new one?", "restore the database; where the machine is lost, the host has to be marked dead, and the machine claimed"},
	RecordDiffers:       {Error, true, "a write to the store was lost, or the record was changed by hand", byRepair},
	IssuedUnrecorded:    {Warning, false, "the record of a machine that left its home has gone from the store", byOwner},
	IssuedUnknown:       {Error, true, "this host is the home of the id, and does not know that it is in use", byRepair},
	DestroyUnfinished:   {Warning, true, "a destroy did not come to its end here", byRepair},
	IDInUse:             {Error, false, "an id in quarantine has a record which says that it is in use: is this host's database an old copy?", "find out where the machine is; the id is not issued as long as the record stands"},
	IncomingUninvited:   {Warning, true, "a migration to this host was aborted, and this host did not hear of it", byRepair},
	InDoubt:             {Info, false, "the store did not say how the switchover ended; this host forwards to the target", "repeat the switchover, or abort: ip6d migrate switchover NAME, ip6d migrate abort NAME"},
	MigrationStands:     {Info, false, "a migration was begun and not brought to its end", "finish it, or abort it: ip6d migrate finish NAME, ip6d migrate abort NAME"},
	AppliedStale:        {Info, true, "the host was removed, and left this key", byRepair},
	AliveUnknown:        {Warning, false, "a daemon runs for a host that has no record: its host was removed while it ran", "stop that daemon, or restart it, so that it joins again"},
	TwoOwners:           {Error, false, "two hosts have the machine: one of them runs from an old copy of its database, or it was claimed while its host lived", "find out where it really runs, and detach it on the other"},
	OwnerDoesNotHave:    {Error, false, "the store says that the host owns the machine, and the host says that it does not have it: its database is an old copy, or a new one", "restore that host's database; where the machine is lost, the host has to be marked dead, and the machine claimed"},
	DestroyedUnknown:    {Warning, false, "the home does not know the id of a destroyed machine, so nobody frees it", "on the home: ip6d check, then ip6d repair"},
	EpochOfOwnerDiffers: {Error, false, "the owner has the machine at another epoch than the store says", "on the owner: ip6d check, then ip6d repair"},

	PortGone:          {Error, false, "the device was deleted, or its namespace ended, or the host was started anew", byAttach},
	PortRenamed:       {Warning, true, "somebody renamed the device; packets flow, but it is not found after a restart", byRepair},
	PortDown:          {Error, true, "somebody took it down", byRepair},
	PortMACDiffers:    {Warning, true, "somebody changed the MAC of the host's end", byRepair},
	PortMTUDiffers:    {Warning, false, "somebody changed its MTU, or that of the underlay is another since", "set it back, ip link set DEVICE mtu MTU, or detach the machine and attach it again"},
	PortEntryDiffers:  {Error, true, tampered + ", or the device was made anew: packets go into another device, or none", byRepair},
	PortStray:         {Warning, false, "a crash, or a database that was restored: no machine of this host has this port", "delete it, if nothing uses it: ip link delete DEVICE"},
	PortPeerElsewhere: {Error, false, "the machine's end is in another namespace than it was made for", "detach the machine and attach it again"},
	NamespaceGone:     {Warning, false, "the name of the machine's namespace was deleted, or given to another; packets flow as long as a process holds it", "when the machine has ended: ip6d machine detach NAME, or destroy it"},
	IdentityDiffers:   {Error, true, tampered + ": what the machine sends is refused, or passes as another's", byRepair},
	IdentityStray:     {Warning, true, "a crash, or " + tampered, byRepair},
	ProgramMissing:    {Error, true, "something detached the program: packets pass unseen, or are not translated", byRepair},
	ProgramTwice:      {Error, false, "another datapath attached a program of this name", "find out which bpf_dir it is of, and remove that datapath: bpftool net"},
	ProgramOld:        {Warning, true, "another version's program is still attached", byRepair},
	ProgramStray:      {Warning, true, "a crash, or a device that is no port and no underlay any more", byRepair},
	PinMissing:        {Error, true, "somebody removed it from bpf_dir: after a restart the daemon would begin with an empty map, or attach anew", byRepair},
	PinDiffers:        {Error, false, "another process put another one in its place", "restart the daemon, when no other ip6d uses this bpf_dir"},

	UnderlayMissing:      {Error, false, "the underlay's device was deleted, or is down", "bring it up; the routes to other hosts come back by themselves"},
	StackMissing:         {Error, true, "somebody deleted or changed ip6d0, the device for what takes the host's own stack", byRepair},
	RouteMissing:         {Error, true, "somebody deleted it", byRepair},
	RouteDiffers:         {Error, true, "somebody changed it, or the way to the host is another by now", byRepair},
	RouteStray:           {Warning, true, "the host has gone from the fleet, and its route has not", byRepair},
	NeighbourMissing:     {Warning, true, "somebody deleted it; each packet to that next hop asks the kernel", byRepair},
	NeighbourUnreachable: {Warning, false, "the next hop does not answer: the host is down, or the link to it", "look at that host and the link"},
	NeighbourStray:       {Warning, true, "the host has gone from the fleet, and the neighbour has not", byRepair},
	NextHopMissing:       {Error, true, tampered + ": packets to that host are refused", byRepair},
	NextHopDiffers:       {Error, true, tampered + ", or the way to the host is another by now", byRepair},
	NextHopStray:         {Warning, true, "the host has gone from the fleet, and its next hop has not", byRepair},
	MeshPeerMissing:      {Error, true, "somebody removed the WireGuard peer", byRepair},
	MeshPeerDiffers:      {Error, true, "somebody changed the WireGuard peer", byRepair},
	MeshPeerStray:        {Warning, true, "the host has gone from the fleet, and the WireGuard peer has not", byRepair},
}
