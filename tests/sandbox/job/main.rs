//! The sandbox's job: an interpreter of its arguments, one after the other, that does whatever a test or
//! a demo needs a job to do. `job print hello pause 500 exit 3` says hello, waits, and exits with 3.
//!
//! It is one static file without any crate, so that an image of it is `FROM scratch`. Outputs are flushed
//! word by word. A write that fails ends it with 74.
//!
//! From its first moment SIGHUP, SIGINT, SIGQUIT and SIGTERM end it with 128 and the signal's number:
//! the kernel drops signals that the first process of a container has no handler for, and a handler that
//! came later would be a race with whoever waits for a printed word to send one.

#![expect(unsafe_code, reason = "signals without a crate: the C functions below, and a fault on purpose")]

use std::env::Args;
use std::io::{self, BufWriter, Read, Write};
use std::iter::Peekable;
use std::process::{Command, exit};
use std::str::FromStr;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread::sleep;
use std::time::Duration;
use std::{env, fs};

const USAGE: &str = "\
usage: job WORD…, where a WORD is one of
  print TEXT        a line on stdout
  eprint TEXT       a line on stderr
  write TEXT        on stdout, without a line's end
  lines N BYTES     N lines of BYTES bytes, each with its number in front
  bytes N           one line of N bytes
  noise N BYTES     N lines of BYTES letters by chance, always the same
  env NAME          NAME=value, or NAME unset
  want NAME VALUE   ends with 1 unless NAME is VALUE
  drip NAME MS      NAME's value on stdout byte by byte, with pauses
  args …            all that follows, one a line, quoted
  cwd               the working directory
  id                uid:gid
  tty               whether stdout is a terminal
  stdin             how many bytes stdin has
  cat PATH          the file's content
  file PATH TEXT    writes the file
  append PATH TEXT  adds a line to the file
  pause MS          goes on after so many milliseconds
  await PATH        goes on when the file is there
  once PATH N       makes the file and ends with N; goes on if it was there
  wait              until a signal ends it
  ignore-term       from now on SIGTERM only prints a line
  exit-on-term N    from now on SIGTERM ends it with N
  exit N            ends with N
  raise N           sends itself the signal N, which has its usual effect unless this is process 1
  crash             a fault: SIGSEGV, as process 1 too
  hog               takes memory, a gigabyte at most
  fork-hog          has a child that does, and tells how it ended
  demo [N]          three seconds to watch, then ends with N or 0
";

/// What sysexits.h says of a wrong command line and of a failed write.
const EX_USAGE: i32 = 64;
const EX_IOERR: i32 = 74;

/// No limit stopped the hog: it gives up before the machine does.
const EX_SOFTWARE: i32 = 70;

const MEBIBYTE: usize = 1024 * 1024;

const SIGHUP: i32 = 1;
const SIGINT: i32 = 2;
const SIGQUIT: i32 = 3;
const SIGTERM: i32 = 15;
const SIG_DFL: usize = 0;

/// What `exit-on-term` was told; a handler gets no more than the signal's number.
static CODE_ON_TERM: AtomicI32 = AtomicI32::new(0);

unsafe extern "C" {
    fn signal(number: i32, handler: usize) -> usize;
    fn raise(number: i32) -> i32;
    fn pause() -> i32;
    fn getuid() -> u32;
    fn getgid() -> u32;
    fn isatty(file: i32) -> i32;
    fn write(file: i32, bytes: *const u8, count: usize) -> isize;
    fn _exit(code: i32) -> !;
}

fn main() {
    for number in [SIGHUP, SIGINT, SIGQUIT, SIGTERM] {
        handle(number, leave);
    }
    let mut words = Words(env::args().peekable());
    words.0.next();
    if words.0.peek().is_none() {
        usage("no word");
    }
    while let Some(word) = words.0.next() {
        run(&word, &mut words);
    }
}

/// Does what one word says, with the words that belong to it.
fn run(word: &str, words: &mut Words) {
    match word {
        "print" => out(format!("{}\n", words.text())),
        "eprint" => checked(io::stderr().write_all(format!("{}\n", words.text()).as_bytes())),
        "write" => out(words.text()),
        "lines" => lines(words.number(), words.number()),
        "noise" => noise(words.number(), words.number()),
        "bytes" => bytes(words.number()),
        "env" => {
            let name = words.text();
            match env::var_os(&name) {
                Some(value) => out(format!("{name}={}\n", value.display())),
                None => out(format!("{name} unset\n")),
            }
        }
        "want" => {
            if env::var(words.text()).ok() != Some(words.text()) {
                exit(1);
            }
        }
        "drip" => {
            let (name, pause) = (words.text(), words.number());
            for byte in env::var(&name).unwrap_or_default().bytes() {
                out([byte]);
                sleep(Duration::from_millis(pause));
            }
        }
        "args" => words.0.by_ref().for_each(|word| out(format!("{word:?}\n"))),
        "cwd" => out(format!("{}\n", checked(env::current_dir()).display())),
        // SAFETY: these take nothing and always succeed.
        "id" => out(format!("{}:{}\n", unsafe { getuid() }, unsafe { getgid() })),
        // SAFETY: any number may be asked about.
        "tty" => out(if unsafe { isatty(1) } == 1 { "a terminal\n" } else { "no terminal\n" }),
        "stdin" => {
            let mut read = Vec::new();
            out(format!("{}\n", checked(io::stdin().read_to_end(&mut read))));
        }
        "cat" => out(checked(fs::read(words.text()))),
        "file" => checked(fs::write(words.text(), words.text())),
        "append" => {
            let file = fs::OpenOptions::new().create(true).append(true).open(words.text());
            checked(checked(file).write_all(format!("{}\n", words.text()).as_bytes()));
        }
        "pause" => sleep(Duration::from_millis(words.number())),
        "await" => {
            let path = words.text();
            while !checked(fs::exists(&path)) {
                sleep(Duration::from_millis(10));
            }
        }
        "once" => {
            let (path, code) = (words.text(), words.number());
            if !checked(fs::exists(&path)) {
                checked(fs::write(path, ""));
                exit(code);
            }
        }
        "wait" => wait(),
        "ignore-term" => handle(SIGTERM, ignore),
        "exit-on-term" => {
            CODE_ON_TERM.store(words.number(), Ordering::Relaxed);
            handle(SIGTERM, leave_as_told);
        }
        "exit" => exit(words.number()),
        "raise" => raise_with_its_usual_effect(words.number()),
        "crash" => crash(),
        "hog" => hog(),
        "fork-hog" => {
            let child = checked(Command::new("/proc/self/exe").arg("hog").status());
            out(format!("the child ended: {child}\n"));
        }
        "demo" => demo(words),
        unknown => usage(&format!("no word is {unknown:?}")),
    }
}

/// The words that are still to come.
struct Words(Peekable<Args>);

impl Words {
    fn text(&mut self) -> String {
        self.0.next().unwrap_or_else(|| usage("the last word lacks what belongs to it"))
    }

    fn number<T: FromStr>(&mut self) -> T {
        let text = self.text();
        text.parse().unwrap_or_else(|_| usage(&format!("{text:?} is no number for this")))
    }
}

fn usage(complaint: &str) -> ! {
    eprint!("job: {complaint}\n{USAGE}");
    exit(EX_USAGE)
}

fn out(bytes: impl AsRef<[u8]>) {
    let mut stdout = io::stdout();
    checked(stdout.write_all(bytes.as_ref()).and_then(|()| stdout.flush()));
}

fn checked<T>(result: io::Result<T>) -> T {
    result.unwrap_or_else(|error| {
        // Stderr may be what failed.
        let _ = writeln!(io::stderr(), "job: {error}");
        exit(EX_IOERR)
    })
}

fn lines(count: usize, bytes: usize) {
    let mut stdout = BufWriter::with_capacity(MEBIBYTE, io::stdout());
    // The same line again and again: who writes gigabytes is to be faster than who reads them.
    let mut line = vec![b'x'; bytes + 1];
    line[bytes] = b'\n';
    for number in 1..=count {
        // Over the number before, which was no longer. What of it has no room is cut off.
        let _ = write!(&mut line[..bytes], "{number} ");
        checked(stdout.write_all(&line));
    }
    checked(stdout.flush());
}

fn bytes(count: usize) {
    let (piece, mut stdout) = ([b'x'; 64 * 1024], io::stdout().lock());
    for written in (0..count).step_by(piece.len()) {
        checked(stdout.write_all(&piece[..piece.len().min(count - written)]));
    }
    checked(stdout.write_all(b"\n").and_then(|()| stdout.flush()));
}

/// Letters that cannot be packed to much less: xorshift64.
fn noise(count: usize, bytes: usize) {
    let (mut stdout, mut random) = (BufWriter::with_capacity(MEBIBYTE, io::stdout()), 1_u64);
    let mut letter = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        b' ' + (random >> 32) as u8 % 95
    };
    for _ in 0..count {
        let line: Vec<_> = (0..bytes).map(|_| letter()).chain([b'\n']).collect();
        checked(stdout.write_all(&line));
    }
    checked(stdout.flush());
}

fn wait() -> ! {
    loop {
        // SAFETY: it returns when a handler has run.
        unsafe { pause() };
    }
}

fn handle(number: i32, handler: extern "C" fn(i32)) {
    // SAFETY: the handlers call nothing that a handler may not call.
    unsafe { signal(number, handler as *const () as usize) };
}

extern "C" fn leave(number: i32) {
    // SAFETY: a handler may call it.
    unsafe { _exit(128 + number) }
}

extern "C" fn leave_as_told(_: i32) {
    // SAFETY: a handler may call it.
    unsafe { _exit(CODE_ON_TERM.load(Ordering::Relaxed)) }
}

extern "C" fn ignore(_: i32) {
    let line = b"ignored SIGTERM\n";
    // SAFETY: a handler may call it, and the bytes are there.
    unsafe { write(1, line.as_ptr(), line.len()) };
}

fn raise_with_its_usual_effect(number: i32) {
    // SAFETY: signal() answers an error for numbers that have no other effect, and so does raise().
    unsafe {
        signal(number, SIG_DFL);
        raise(number);
    }
}

/// A fault reaches process 1 too, where raise(SIGSEGV) would be dropped.
fn crash() {
    let nowhere = std::hint::black_box(std::ptr::without_provenance_mut::<u8>(1));
    // SAFETY: none, on purpose: the first page is mapped nowhere.
    unsafe { nowhere.write_volatile(1) };
}

fn hog() {
    for _ in 0..1024 {
        let mut taken = vec![0u8; MEBIBYTE];
        taken.iter_mut().step_by(4096).for_each(|page| *page = 1);
        std::hint::black_box(taken.leak());
    }
    eprintln!("job: took a gigabyte and no limit ended it");
    exit(EX_SOFTWARE);
}

fn demo(words: &mut Words) {
    let code =
        words.0.next_if(|word| word.parse::<i32>().is_ok()).map_or(0, |word| word.parse().unwrap_or(0));
    let rest = || sleep(Duration::from_millis(500));
    out("Good day. This is a job that pretends to work.\n");
    rest();
    for (done, what) in ["reading the input", "thinking about it", "writing it down"].iter().enumerate() {
        out(format!("[{}/3] {what}\n", done + 1));
        rest();
    }
    eprintln!("warning: this line went to stderr");
    rest();
    out("Done.\n");
    rest();
    exit(code);
}
