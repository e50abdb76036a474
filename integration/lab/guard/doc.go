// Package guard watches a port of a machine that moves: it drops and counts packets for the machine's stable address that
// come in before the switchover to that port, or after the one away from it.
//
// "Before" is exact, and no clock is involved: from the moment at which the switchover is asked for, the guard looks the
// machine up in the source host's own `machines` map, with each packet, and opens when the source has let go.
package guard
