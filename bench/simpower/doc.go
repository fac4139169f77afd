// Package simpower is the simulated ground of "millrace bench powerloss": the whole
// broker, made by engine.Open on ring/sim, with producers that send again what they
// have not heard of, and power that goes at a chosen disk event. One seed gives one
// run, event by event. The ledger is that of the other grounds (package bench).
//
// A history is a world with one broker, which lives many lives on one disk:
//
//	boot, create the topic                 no cut: nothing is promised yet
//	load                                   produce, and switch the topic's policy and back
//	cut                                    before a disk event; what was not synced fares by the outcome
//	restart                                cut as well, now and then
//	drain                                  every producer gets its answers
//	read back                              everything, over the wire, against the ledger
//	load ...                               the next life
//
// Where the policy promises that what is acknowledged is on disk, a cut of a restart may come as late as in
// the drain. Where it does not, it comes before anything is acknowledged again, so that
// what is lost was lost by the one cut and its age is known.
//
// There are two kinds of points. "Every" takes one short history and cuts it before each of its disk events, and
// after the last, with each outcome of what was not synced. It is made of what is delicate: segments roll,
// the journal is cut, the policy changes. "Sampled" takes one history after the other, each
// from a seed of its own, which draws cores, sizes, times, points and outcomes.
package simpower
