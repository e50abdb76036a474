/*
 * The life of one machine id in the hardware map: begin, switchover, finish, abort, destroy and claim, on three
 * hosts and one store, with crashes, reboots, transactions that are late or whose answers are lost, and a lost host.
 *
 * It follows hwmap/ step by step, by the same names: what is durable on a host is `truth`, what its kernel does with
 * packets is `entry`, what all share is `record`. Each guarded command of a host is one step after which it may crash;
 * reading the store and sending a transaction are one step, because a transaction compares the revision that was read,
 * and may stay on its way for as long as it likes.
 *
 * What must hold is in asserts, each with a name from DESIGN's "What must hold"; run.sh checks it, and that each of the
 * mutations (-DMUTATE_...) breaks it.
 */

#define HOSTS 3
#define HOME  1 /* of the id's block */
#define NOBODY 0
#define FLOOR 8 /* the floor of an adopted block: no id has had as many owners (2^32 in the code) */

/* How often each thing may happen in one run; run.sh sets them. */
#ifndef BEGINS
#define BEGINS 2
#endif
#ifndef ABORTS
#define ABORTS 1
#endif
#ifndef CRASHES
#define CRASHES 1
#endif
#ifndef LOSSES
#define LOSSES 1 /* of answers: the transaction may still be committed, then or much later */
#endif
#ifndef DEATHS
#define DEATHS 0
#endif
#ifndef CLAIMS
#define CLAIMS 0
#endif
#ifndef DESTROYS
#define DESTROYS 0
#endif
#ifndef NEWS
#define NEWS 0 /* 1: of what a host believes that has nothing of the machine; 0 keeps the search small */
#endif

/* LocalState; fenced is a host's, here kept apart. */
mtype:state = { none, here, leaving, switching, away, incoming, claiming, destroying, issued, quarantined, free };
/* The kernel's entry. */
mtype:entry = { absent, delivering, inbound, forwarding };
/* What a host waits for; idle when it does nothing. A crash makes it idle. */
mtype:step = { idle, accept_entry, begin_sent, ready, written, flipped, switch_sent, undo, abort_sent, call_off, stay_entry, stay_local,
	arrive_entry, arrive_local, settle_sent, claim_sent, destroy_sent, end_entry, release_sent };
/* An answer to a transaction. */
mtype:answer = { pending, committed, conflict, unavailable };

/* Of each host. Durable: */
mtype:state truth[HOSTS + 1] = none;
byte epoch[HOSTS + 1];
byte peer[HOSTS + 1];
/* In its kernel, which outlives the daemon but not a reboot: */
mtype:entry entry[HOSTS + 1] = absent;
byte entry_epoch[HOSTS + 1];
/* In the daemon's memory: */
mtype:step step[HOSTS + 1] = idle;
byte seen[HOSTS + 1];   /* revision of the record as read */
bool first[HOSTS + 1];  /* this switchover is the first since begin */
bool fenced[HOSTS + 1]; /* durable: it knows that it was declared dead */

/* The store: the machine's record, and whether a host's record says dead. */
bool exists;
byte host;
byte moving_to;
byte record_epoch;
bool destroyed;
byte mod_revision; /* of the record; 0 where there is none */
byte revision;     /* of the store */
bool dead[HOSTS + 1];
byte host_revision[HOSTS + 1];

/* A transaction on its way: as many as hosts, and one each that was given up on. */
#define SLOTS 4
typedef transaction {
	bool used;
	byte who;  /* waits for the answer; NOBODY: given up */
	mtype:answer answer;
	byte if_revision; /* compares the record's */
	byte if_host;     /* and this host's record, if not NOBODY */
	byte if_host_revision;
	byte then_host, then_moving_to, then_epoch;
	bool then_destroyed, then_delete;
}
transaction tx[SLOTS];
byte mine[HOSTS + 1]; /* the slot that a host waits for */

byte begins = BEGINS, aborts = ABORTS, crashes = CRASHES, losses = LOSSES, deaths = DEATHS, claims = CLAIMS, destroys = DESTROYS;

/* What a host that has nothing of the machine believes, and the news on their way to it: its watch and what it reads upon
 * hints bring them in any order. */
chan news = [4] of { byte, byte };
byte believed = HOME;
byte believed_epoch = 1;

/* Only for the asserts. */
byte owner_of[FLOOR + FLOOR]; /* by epoch: who owned the id at it */
byte highest;                 /* epoch that any user of the id had */
bool alive = true;            /* the machine exists */

inline became_owner(h, e) {
	assert(owner_of[e] == NOBODY || owner_of[e] == h); /* rule 2: at most one owner per epoch */
	owner_of[e] = h;
	if
	:: e > highest -> highest = e
	:: else
	fi
}

inline deliver(h, e) {
	entry[h] = delivering;
	entry_epoch[h] = e;
	assert(owner_of[e] == h) /* rule 3: nothing reaches a target's port before the switchover */
}

/* send: the host h sends a transaction and waits in step then. A free slot is a guard of whoever calls. */
#define room (!tx[0].used || !tx[1].used || !tx[2].used || !tx[3].used)
inline send(me, compare, owner, moving, ep, gone, wipe, onhost, next) {
	if
	:: !tx[0].used -> mine[me] = 0
	:: else ->
		if
		:: !tx[1].used -> mine[me] = 1
		:: else ->
			if
			:: !tx[2].used -> mine[me] = 2
			:: else -> mine[me] = 3
			fi
		fi
	fi;
	tx[mine[me]].used = true;
	tx[mine[me]].who = me;
	tx[mine[me]].answer = pending;
	tx[mine[me]].if_revision = compare;
	tx[mine[me]].if_host = onhost;
	tx[mine[me]].if_host_revision = host_revision[onhost];
	tx[mine[me]].then_host = owner;
	tx[mine[me]].then_moving_to = moving;
	tx[mine[me]].then_epoch = ep;
	tx[mine[me]].then_destroyed = gone;
	tx[mine[me]].then_delete = wipe;
	step[me] = next
}

inline clear(k) {
	tx[k].used = false;
	tx[k].who = NOBODY;
	tx[k].answer = pending;
	tx[k].if_revision = 0;
	tx[k].if_host = NOBODY;
	tx[k].if_host_revision = 0;
	tx[k].then_host = 0;
	tx[k].then_moving_to = 0;
	tx[k].then_epoch = 0;
	tx[k].then_destroyed = false;
	tx[k].then_delete = false
}

#define answered(h, a) (tx[mine[h]].used && tx[mine[h]].who == h && tx[mine[h]].answer == a)

/* The host takes the answer, or gives up waiting: then the transaction is nobody's, and stays on its way. */
inline take(h) {
	clear(mine[h]);
	mine[h] = 0
}

inline give_up(h) {
	if
	:: tx[mine[h]].used && tx[mine[h]].who == h ->
		if
		:: tx[mine[h]].answer == pending ->
			tx[mine[h]].who = NOBODY
		:: else ->
			clear(mine[h])
		fi
	:: else
	fi;
	mine[h] = 0
}

#ifdef MUTATE_NO_REVISION_CHECK
#define holds(i) (true)
#else
#define holds(i) (tx[i].if_revision == mod_revision && \
	(tx[i].if_host == NOBODY || tx[i].if_host_revision == host_revision[tx[i].if_host]))
#endif

/* The store commits transactions in any order. */
active proctype store() {
	byte i;
end:
	do
	:: atomic {
		if
		:: tx[0].used && tx[0].answer == pending -> i = 0
		:: tx[1].used && tx[1].answer == pending -> i = 1
		:: tx[2].used && tx[2].answer == pending -> i = 2
		:: tx[3].used && tx[3].answer == pending -> i = 3
		fi;
		if
		:: !holds(i) -> tx[i].answer = conflict
		:: holds(i) ->
			revision++; assert(revision < 40);
			if
			:: tx[i].then_delete ->
				exists = false; host = 0; moving_to = 0; record_epoch = 0; destroyed = false; mod_revision = 0
			:: else ->
				if
				:: tx[i].then_epoch > record_epoch && !tx[i].then_destroyed ->
					became_owner(tx[i].then_host, tx[i].then_epoch);
					if
					:: NEWS -> news!tx[i].then_host, tx[i].then_epoch
					:: else
					fi
				:: else
				fi;
				exists = true;
				host = tx[i].then_host;
				moving_to = tx[i].then_moving_to;
				record_epoch = tx[i].then_epoch;
				destroyed = tx[i].then_destroyed;
				mod_revision = revision
			fi;
			tx[i].answer = committed
		:: holds(i) && tx[i].who != NOBODY -> tx[i].answer = unavailable /* certainly not written */
		fi;
		if
		:: tx[i].who == NOBODY -> clear(i)
		:: else
		fi;
		i = 0
	   }
	od
}

/* The entry that the truth asks for, after a reboot. */
inline restore(h) {
	if
	:: (truth[h] == here || truth[h] == leaving) && !fenced[h] -> entry[h] = delivering; entry_epoch[h] = epoch[h]
	:: truth[h] == incoming || truth[h] == claiming -> entry[h] = inbound; entry_epoch[h] = epoch[h]
	:: truth[h] == switching || truth[h] == away -> entry[h] = forwarding; entry_epoch[h] = epoch[h]
	:: else -> entry[h] = absent; entry_epoch[h] = 0
	fi
}

/* A daemon that starts again finds the kernel's entry, and brings it to what the truth says; a higher epoch wins. */
inline restart(h) {
	give_up(h);
	step[h] = idle;
	first[h] = false;
	seen[h] = 0;
	if
	:: truth[h] == switching && entry[h] == delivering && entry_epoch[h] == epoch[h] -> truth[h] = leaving /* before the flip, or after its undoing */
	:: entry[h] != absent && entry_epoch[h] > epoch[h] -> skip
	:: else -> restore(h)
	fi
}

#define owns(h) (exists && !destroyed && host == h)
#define newer(h) (exists && record_epoch > epoch[h])
#define arrived(h) (exists && !destroyed && host == h && record_epoch > epoch[h])
#define invited(h) (exists && !destroyed && moving_to == h && host == peer[h] && record_epoch == epoch[h])
#ifdef MUTATE_READY_UNCHECKED
#define target_ready(h) (true)
#else
#define ready_there(h) (entry[peer[h]] == inbound && entry_epoch[peer[h]] == epoch[h] && truth[peer[h]] == incoming)
#ifdef MUTATE_CHECK_UNLOCKED
#define target_ready(h) ready_there(h)
#else
#define target_ready(h) (step[peer[h]] == idle && ready_there(h)) /* it answers under the machine's lock */
#endif
#endif

inline forget(h) {
	if
	:: h == HOME -> truth[h] = issued
	:: else -> truth[h] = none; epoch[h] = 0
	fi;
	peer[h] = 0
}

inline withdraw(h) {
	entry[h] = absent; entry_epoch[h] = 0;
	forget(h)
}

inline depart(h) {
	entry[h] = forwarding; entry_epoch[h] = epoch[h];
	truth[h] = away
}

/* resolve compares a leaving or switching machine with its record; what to do next is in step. */
inline resolve(h, next) {
	if
	:: newer(h) && host != h -> depart(h); step[h] = idle
	:: !newer(h) && (!exists || record_epoch < epoch[h] || moving_to != peer[h]) && !(truth[h] == switching && !exists) -> step[h] = stay_entry
	:: else -> step[h] = next
	fi
}

proctype server(byte h) {
	byte t;
end:
	do
	/* begin: the truth, then the record, then the target accepts. */
	:: atomic { step[h] == idle && truth[h] == here && begins > 0 && !fenced[h] && !dead[h] ->
		begins--;
		if
		:: t = 1
		:: t = 2
		:: t = 3
		fi;
		if
		:: t != h && !dead[t] -> truth[h] = leaving; peer[h] = t
		:: else -> begins++ /* not a host to go to */
		fi;
		t = 0 }
	:: atomic { step[h] == idle && truth[h] == leaving && !fenced[h] && room && !newer(h) && !(exists && moving_to == peer[h]) ->
		send(h, mod_revision, h, peer[h], epoch[h], false, false, NOBODY, begin_sent) }
	:: atomic { step[h] == begin_sent && !answered(h, pending) ->
		if
		:: answered(h, committed) -> take(h); step[h] = idle
		:: else -> take(h); step[h] = stay_entry /* as if never begun */
		fi }
	:: atomic { step[h] == idle && (truth[h] == none || truth[h] == issued || truth[h] == free) && exists && !destroyed &&
		moving_to == h && host != h && !fenced[h] && epoch[h] <= record_epoch ->
		truth[h] = incoming; epoch[h] = record_epoch; peer[h] = host; step[h] = accept_entry }
	:: atomic { step[h] == accept_entry ->
		if
		:: entry[h] == absent || entry_epoch[h] <= epoch[h] -> entry[h] = inbound; entry_epoch[h] = epoch[h]
		:: else
		fi;
#ifdef MUTATE_DELIVER_EARLY
		deliver(h, epoch[h]);
#endif
		step[h] = idle }

	/* switchover: read and resolve; is the target ready?; the truth; the flip; the record. */
	:: atomic { step[h] == idle && (truth[h] == leaving || truth[h] == switching) && exists && moving_to == peer[h] && !newer(h) &&
		!fenced[h] && target_ready(h) ->
		seen[h] = mod_revision; first[h] = (truth[h] == leaving); t = host_revision[peer[h]]; step[h] = ready }
	:: atomic { step[h] == ready && !fenced[h] -> truth[h] = switching; step[h] = written }
	:: atomic { step[h] == written -> entry[h] = forwarding; entry_epoch[h] = epoch[h]; step[h] = flipped }
	:: atomic { step[h] == flipped && room ->
		send(h, seen[h], peer[h], 0, epoch[h] + 1, false, false, peer[h], switch_sent);
		tx[mine[h]].if_host_revision = t; t = 0 }
	:: atomic { step[h] == switch_sent && !answered(h, pending) ->
		if
		:: answered(h, committed) -> take(h); depart(h); step[h] = idle
		:: answered(h, unavailable) && first[h] -> take(h); step[h] = undo
		:: answered(h, unavailable) && !first[h] -> take(h); step[h] = idle
		:: answered(h, conflict) ->
			take(h);
			if
			:: mod_revision == seen[h] && !newer(h) -> step[h] = undo /* the target's record has changed: so no earlier one can win */
			:: else -> step[h] = idle
			fi
		fi;
		seen[h] = 0; first[h] = false }
	:: atomic { step[h] == undo ->
		assert(!newer(h) || dead[h]); /* no flip is undone after a commit */
		if
		:: !fenced[h] -> deliver(h, epoch[h])
		:: else
		fi;
		truth[h] = leaving; step[h] = idle }

	/* Settling a machine that leaves: what its record says by now. */
	:: atomic { step[h] == idle && (truth[h] == leaving || truth[h] == switching) && (newer(h) && host != h ||
		!newer(h) && exists && (record_epoch < epoch[h] || (moving_to != peer[h] && truth[h] == switching))) ->
		resolve(h, idle) }
	:: atomic { step[h] == stay_entry ->
		assert(!newer(h) || destroyed || dead[h]);
		if
		:: !fenced[h] -> deliver(h, epoch[h])
		:: else
		fi;
		step[h] = stay_local }
	:: atomic { step[h] == stay_local -> truth[h] = here; peer[h] = 0; step[h] = idle }

	/* abort: on the source, on the target. It always writes, so that what is late cannot be committed any more. */
	:: atomic { step[h] == idle && aborts > 0 && (truth[h] == leaving || truth[h] == switching) && !newer(h) && !fenced[h] && room ->
		aborts--;
		send(h, mod_revision, h, 0, epoch[h], false, false, NOBODY, abort_sent) }
	:: atomic { step[h] == abort_sent && !answered(h, pending) ->
		if
		:: answered(h, committed) -> take(h); step[h] = stay_entry
		:: else -> take(h); step[h] = idle
		fi }
	:: atomic { step[h] == idle && aborts > 0 && truth[h] == incoming && invited(h) && room ->
		aborts--;
		send(h, mod_revision, host, 0, record_epoch, false, false, NOBODY, call_off) }
	:: atomic { step[h] == call_off && !answered(h, pending) ->
		if
		:: answered(h, committed) -> take(h); withdraw(h); step[h] = idle
		:: else -> take(h); step[h] = idle
		fi }
#ifdef MUTATE_GUESS
	/* A source that takes no answer for a no. */
	:: atomic { step[h] == switch_sent && answered(h, pending) && losses > 0 -> losses--; give_up(h); step[h] = undo }
#endif

	/* The target, when its record has changed. */
	:: atomic { step[h] == idle && (truth[h] == incoming || truth[h] == claiming) && arrived(h) && !fenced[h] ->
		t = record_epoch; step[h] = arrive_entry }
	:: atomic { step[h] == arrive_entry -> deliver(h, t); step[h] = arrive_local }
	:: atomic { step[h] == arrive_local -> truth[h] = here; epoch[h] = t; peer[h] = 0; t = 0; step[h] = idle }
	:: atomic { step[h] == idle && truth[h] == incoming && !arrived(h) && !invited(h) -> withdraw(h) }

	/* finish */
	:: atomic { step[h] == idle && truth[h] == away && (!exists || destroyed || (host != h && entry[host] == delivering && entry_epoch[host] == record_epoch)) ->
		entry[h] = absent; entry_epoch[h] = 0;
		epoch[h] = epoch[h] + 1;
		forget(h) }

	/* Settling a machine that is here: its record is missing away from home, or left by a begin that was given up. */
	:: atomic { step[h] == idle && truth[h] == here && !newer(h) && !fenced[h] && room &&
		((!exists && h != HOME) || (exists && !destroyed && (record_epoch < epoch[h] || moving_to != 0))) ->
		send(h, mod_revision, h, 0, epoch[h], false, false, NOBODY, settle_sent) }
	:: atomic { step[h] == settle_sent && !answered(h, pending) -> take(h); step[h] = idle }

	/* destroy: at home the truth says so, elsewhere the record; then the home frees the id. */
	:: atomic { step[h] == idle && truth[h] == here && destroys > 0 && h == HOME && !fenced[h] && !newer(h) ->
		destroys--; step[h] = end_entry }
#ifdef MUTATE_DESTROY_UNRECORDED
	:: atomic { step[h] == idle && truth[h] == here && destroys > 0 && h != HOME && !fenced[h] && !newer(h) && room ->
		destroys--;
		send(h, mod_revision, h, 0, epoch[h], true, false, NOBODY, destroy_sent) }
	:: atomic { step[h] == destroy_sent && !answered(h, pending) ->
		if
		:: answered(h, committed) -> take(h); step[h] = end_entry
		:: else -> take(h); step[h] = idle
		fi }
	:: atomic { step[h] == idle && truth[h] == here && exists && destroyed && host == h && record_epoch == epoch[h] -> step[h] = end_entry }
#else
	:: atomic { step[h] == idle && truth[h] == here && destroys > 0 && h != HOME && !fenced[h] && !newer(h) ->
		destroys--; truth[h] = destroying; alive = false; step[h] = end_entry }
	:: atomic { step[h] == idle && truth[h] == destroying && !newer(h) && exists && !destroyed && room ->
		send(h, mod_revision, h, 0, epoch[h], true, false, NOBODY, destroy_sent) }
	:: atomic { step[h] == destroy_sent && !answered(h, pending) -> take(h); step[h] = idle }
	/* Its home has read it, and may have freed the id already. */
	:: atomic { step[h] == idle && truth[h] == destroying && entry[h] == absent && (!exists || destroyed || newer(h)) -> forget(h) }
#endif
	:: atomic { step[h] == end_entry ->
		entry[h] = absent; entry_epoch[h] = 0;
		alive = false;
		if
		:: h == HOME -> truth[h] = quarantined
#ifdef MUTATE_DESTROY_UNRECORDED
		:: else -> forget(h)
#else
		:: else
#endif
		fi;
		step[h] = idle }
	:: atomic { step[h] == idle && h == HOME && truth[h] == issued && exists && destroyed ->
		truth[h] = quarantined;
		if
		:: record_epoch > epoch[h] -> epoch[h] = record_epoch
		:: else
		fi }
	:: atomic { step[h] == idle && truth[h] == quarantined && exists && room && (destroyed || record_epoch <= epoch[h]) ->
		if
		:: record_epoch > epoch[h] -> epoch[h] = record_epoch
		:: else
		fi;
		send(h, mod_revision, 0, 0, 0, false, true, NOBODY, release_sent) }
	:: atomic { step[h] == release_sent && !answered(h, pending) ->
		if
		:: answered(h, committed) -> take(h); truth[h] = free; step[h] = idle
		:: else -> take(h); step[h] = idle
		fi }
#ifdef MUTATE_FREE_EARLY
	:: atomic { step[h] == idle && h == HOME && (truth[h] == quarantined || truth[h] == issued) -> truth[h] = free }
#else
	:: atomic { step[h] == idle && truth[h] == quarantined && !exists -> truth[h] = free }
#endif
	:: atomic { step[h] == idle && truth[h] == free && exists -> truth[h] = quarantined } /* written very late */
	:: atomic { step[h] == idle && h == HOME && truth[h] == free && !exists && !alive && !fenced[h] ->
		epoch[h] = epoch[h] + 1;
		assert(epoch[h] > highest);                                    /* rule 1: above every earlier user */
		assert(entry[1] != delivering && entry[2] != delivering && entry[3] != delivering); /* and nobody holds the address */
		became_owner(h, epoch[h]);
		alive = true;
		truth[h] = here;
		deliver(h, epoch[h]) }

	/* claim --force, on a host that has nothing of the machine, from one that was declared dead. The truth says so first. */
	:: atomic { step[h] == idle && claims > 0 && !dead[h] && !fenced[h] && alive && (truth[h] == none || truth[h] == issued || truth[h] == incoming) &&
		(exists && !destroyed && host != h && dead[host] || !exists && h != HOME && dead[HOME]) ->
		claims--;
		truth[h] = claiming;
		if
		:: exists -> epoch[h] = record_epoch; peer[h] = host
		:: else -> epoch[h] = FLOOR; peer[h] = HOME
		fi;
		entry[h] = inbound; entry_epoch[h] = epoch[h] }
#ifdef MUTATE_CLAIM_FROM_THE_LIVING
#define claimable(h) (true)
#else
#define claimable(h) (dead[peer[h]])
#endif
	:: atomic { step[h] == idle && truth[h] == claiming && !arrived(h) && claimable(h) && room &&
		(!exists && peer[h] == HOME || exists && !destroyed && host == peer[h] && record_epoch == epoch[h]) ->
#ifdef MUTATE_CLAIM_FROM_THE_LIVING
		send(h, mod_revision, h, 0, epoch[h] + 1, false, false, NOBODY, claim_sent)
#else
		send(h, mod_revision, h, 0, epoch[h] + 1, false, false, peer[h], claim_sent)
#endif
		}
	:: atomic { step[h] == claim_sent && !answered(h, pending) -> take(h); step[h] = idle }
	/* Given up only when the owner's record says something else: what is late then compares what is not so any more. */
	:: atomic { step[h] == idle && truth[h] == claiming && !arrived(h) &&
		((exists && (host != peer[h] || record_epoch != epoch[h] || destroyed)) || !dead[peer[h]]) ->
		if
		:: invited(h) -> truth[h] = incoming /* the owner may still hand it over */
		:: else -> withdraw(h)
		fi }

	/* A host that learns that it was declared dead fences its ports before anything else. */
	:: atomic { dead[h] && !fenced[h] ->
		give_up(h); step[h] = idle; first[h] = false; seen[h] = 0; t = 0;
		fenced[h] = true;
		entry[h] = absent; entry_epoch[h] = 0 }
	/* It comes back by itself, fenced: its record says so, then each machine is looked up before it is carried again. */
#ifdef MUTATE_REVIVE_UNFENCED
	:: atomic { dead[h] -> dead[h] = false; host_revision[h]++ }
#else
	:: atomic { dead[h] && fenced[h] && step[h] == idle -> dead[h] = false; host_revision[h]++ }
#endif
	:: atomic { fenced[h] && !dead[h] && step[h] == idle ->
		fenced[h] = false;
		if
		:: newer(h) && host != h && (truth[h] == here || truth[h] == leaving || truth[h] == switching) -> forget(h)
		:: !(newer(h) && host != h && (truth[h] == here || truth[h] == leaving || truth[h] == switching)) -> restore(h)
		fi }

	/* Faults. */
	:: atomic { crashes > 0 && (step[h] != idle || truth[h] == switching) -> crashes--; t = 0; restart(h) }                                  /* the daemon */
	:: atomic { crashes > 0 && step[h] != idle -> crashes--; t = 0; entry[h] = absent; entry_epoch[h] = 0; restart(h) } /* the host */
	:: atomic { losses > 0 && tx[mine[h]].used && tx[mine[h]].who == h -> losses--; give_up(h); t = 0; seen[h] = 0; first[h] = false; step[h] = idle } /* an answer */
	:: atomic { deaths > 0 && h != HOSTS && !dead[h] -> deaths--; dead[h] = true; host_revision[h]++ }         /* an operator's word, right or wrong */
	od
}

#define delivers(h) (entry[h] == delivering && !dead[h])

/* Rule 1: no two hosts whose packets are taken hold the address. */
active proctype watcher() {
end:
	atomic {
		delivers(1) && delivers(2) || delivers(1) && delivers(3) || delivers(2) && delivers(3) ->
		assert(false)
	}
}

inline apply_news() {
	if
#ifdef MUTATE_NO_EPOCH_CHECK
	:: true -> believed = h; believed_epoch = e
#else
	:: e > believed_epoch -> believed = h; believed_epoch = e
	:: else /* a lower epoch always loses */
#endif
	fi;
	h = 0;
	e = 0
}

active proctype bystander() {
	byte h, e;
end:
	do
	:: atomic { news?h, e -> apply_news() }
	:: atomic { len(news) > 1 -> news?h, e; news!h, e; h = 0; e = 0 } /* another one comes first */
	od
}

/* When nothing can happen any more, the machine is where its record says, and delivered (rules 4 and 6). */
active proctype rest() {
end:
	atomic {
		timeout ->
		assert(!alive || entry[1] == delivering || entry[2] == delivering || entry[3] == delivering ||
			truth[1] == switching || truth[2] == switching || truth[3] == switching);
		assert(!exists || destroyed || entry[host] == delivering || dead[host] || truth[host] == here);
		assert(!NEWS || !exists || destroyed || believed == host)
	}
}

init {
	atomic {
		truth[HOME] = here;
		epoch[HOME] = 1;
		became_owner(HOME, 1);
		deliver(HOME, 1);
		run server(1);
		run server(2);
		run server(3)
	}
}
