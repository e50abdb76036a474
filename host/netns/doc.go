// Package netns makes network namespaces, opens them, and runs code and commands in them.
//
// A network namespace belongs to a thread, and goroutines move between threads. So Do gives its function
// a thread of its own for as long as it runs; a thread that cannot be brought back to where it was dies with
// its goroutine, and is never used again by another.
//
// In the function given to Do, sockets, netlink and /proc/sys/net are those of the namespace. What was opened
// there stays there: a socket keeps its namespace for life. /sys/class/net is not: it shows the devices of the
// namespace that /sys was mounted in.
package netns
