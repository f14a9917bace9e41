//! Runs a program and meddles with one of its system calls: kills the whole program right before it
//! or right after it, lets it fail once, or lets it do a part only. Writes down the calls that it saw.
//!
//! strace can do so for the calls of one thread: its `when=` counts per thread, and the deliverer
//! talks with relay and database in threads. Here, the calls of all threads are counted in the order
//! in which they begin.
//!
//! What counts is what a crash or a fault can do harm to: calls about files below one folder (the
//! outbox) and about sockets, from the moment on at which the configuration file is opened. So
//! neither the dynamic loader nor the log counts. Child processes are not traced.
//!
//! The program is started by a shell that stops itself, so that it can be seized before it runs. It
//! ends with the tracer, and the tracer ends as it ends.

#[cfg(target_arch = "x86_64")]
mod calls;
#[cfg(target_arch = "x86_64")]
mod trace;

fn main() -> anyhow::Result<()> {
    #[cfg(target_arch = "x86_64")]
    return trace::main();
    #[cfg(not(target_arch = "x86_64"))]
    anyhow::bail!("the registers of this processor are not known here");
}
