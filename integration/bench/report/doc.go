// Package report is what benchmarks make of their numbers: medians held to bars, tables, charts and files.
package report
