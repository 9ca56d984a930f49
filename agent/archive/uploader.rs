//! Brings what the intake has into Cloud Storage, whatever happens on the way.

use std::{ops::ControlFlow, sync::Arc, time::Duration};

use reqwest::StatusCode;
use serde_json::Value;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

use super::{Archived, Ending, LogOf, Names, Shared, intake::Source};
use crate::{
    backoff,
    engine::OutputReader,
    google::{Step, Storage, Trouble, Upload},
    http,
    logs::Redactor,
    progress::Stream,
};

/// A session lives for a week (FACTS). An object is finished before that, and another one begun.
const OLDEST: Duration = Duration::from_secs(6 * 24 * 3600);
/// Between two tries.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// After a refusal that people must mend: IAM takes minutes to spread a new role.
const SLOW_PAUSE: Duration = Duration::from_secs(60);

/// Uploads one attempt's log.
pub(super) struct Uploader {
    storage: Storage,
    names: Names,
    resource: Value,
    of: LogOf,
    shared: Arc<Shared>,
    ending: watch::Receiver<Option<Ending>>,
    /// Whether a first object that is there must be the whole log, of an agent before this one.
    may_be_done: bool,
    /// [`OLDEST`].
    oldest: Duration,
    /// The object that is being uploaded, from one.
    part: u32,
    upload: Option<Upload>,
    /// When that began.
    begun: Instant,
    /// Whether it has its end, and may be there.
    complete: bool,
    /// The last object that is there.
    there: Option<u32>,
    /// Why the last try brought nothing.
    trouble: Option<String>,
}

/// What to do next.
enum Next {
    Send,
    ReadAgain,
    BeginAnother,
    Finish,
}

/// What came of beginning an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begun {
    Now,
    /// It is there, with everything that it should have.
    Done,
}

impl Uploader {
    pub(super) fn new(
        storage: Storage,
        names: Names,
        resource: Value,
        of: LogOf,
        shared: Arc<Shared>,
        ending: watch::Receiver<Option<Ending>>,
    ) -> Self {
        let age = of.started_before.map(|start| start.elapsed().unwrap_or_default());
        Self {
            storage,
            names,
            resource,
            of,
            shared,
            ending,
            may_be_done: age.is_some_and(|age| age < OLDEST),
            oldest: OLDEST,
            part: 1,
            upload: None,
            begun: Instant::now(),
            complete: false,
            there: None,
            trouble: None,
        }
    }

    /// Uploads until the job's end, and for as long after it as there is time.
    pub(super) async fn run(mut self) -> Archived {
        let deadline = at(self.ending.clone(), |ending| ending.deadline);
        let done = tokio::select! {
            done = self.upload_all() => done,
            () = deadline => Err(self.trouble.take().unwrap_or_else(|| "there was no time left".to_owned())),
        };
        let missing = match done {
            Ok(Begun::Done) => None,
            Ok(Begun::Now) => self.shared.lock().doubt(),
            Err(why) => Some(format!("the end of it was not uploaded: {why}")),
        };
        let bucket = &self.names.bucket;
        let missing = missing.map(|missing| format!("the log in gs://{bucket}: {missing}"));
        if let Some(missing) = &missing {
            tracing::warn!("{missing}");
        }
        Archived { uri: self.there.map(|last| self.names.all(last)), missing }
    }

    /// `Err` says why the end is missing.
    async fn upload_all(&mut self) -> Result<Begun, String> {
        loop {
            match self.next().await {
                Next::Send => drop(self.send().await?),
                Next::ReadAgain => self.read_again().await?,
                Next::BeginAnother => drop(self.finish().await?),
                Next::Finish => {
                    if let Some(done) = self.finish().await? {
                        return Ok(done);
                    }
                }
            }
        }
    }

    async fn next(&mut self) -> Next {
        loop {
            let ended = self.ending.borrow_and_update().is_some();
            let old = self.begun + self.oldest;
            {
                let intake = self.shared.lock();
                match intake.source {
                    Source::Kept => return Next::ReadAgain,
                    _ if ended && !intake.is_ready() => return Next::Finish,
                    _ if self.upload.is_some() && Instant::now() >= old => return Next::BeginAnother,
                    _ if intake.is_ready() => return Next::Send,
                    Source::Live | Source::Over => {}
                }
            }
            tokio::select! {
                () = self.shared.news.notified() => {}
                _ = self.ending.changed() => {}
                () = sleep_until(old), if self.upload.is_some() => {}
            }
        }
    }

    /// Stores what waits; `false` if that is lost, with what was stored before.
    async fn send(&mut self) -> Result<bool, String> {
        if self.upload.is_none() && self.begin().await? == Begun::Done {
            self.shared.lock().source = Source::Over;
        }
        let part = self.shared.lock().drain();
        match &mut self.upload {
            Some(upload) => upload.append(part),
            None => return Ok(true),
        }
        self.drive().await
    }

    /// Stores the object's end; `None` if it is lost, with what was stored before.
    async fn finish(&mut self) -> Result<Option<Begun>, String> {
        if self.upload.is_none() && self.begin().await? == Begun::Done {
            self.there = Some(self.part);
            return Ok(Some(Begun::Done));
        }
        if let Some(upload) = &mut self.upload {
            upload.append(self.shared.lock().finish());
            upload.complete();
            self.complete = true;
        }
        if !self.drive().await? {
            return Ok(None);
        }
        tracing::info!(object = self.names.object(self.part).to_string(), "the log is stored");
        self.shared.lock().begin_another();
        (self.there, self.upload, self.complete) = (Some(self.part), None, false);
        self.part += 1;
        Ok(Some(Begun::Now))
    }

    /// Begins an object; another one if there is one of its name that is not ours.
    async fn begin(&mut self) -> Result<Begun, String> {
        let mut pauses = pauses();
        loop {
            match self.storage.start(&self.names.object(self.part), &self.resource).await {
                Ok(upload) => {
                    (self.upload, self.begun, self.trouble) = (Some(upload), Instant::now(), None);
                    return Ok(Begun::Now);
                }
                Err(Trouble::Exists) if self.complete || (self.part == 1 && self.may_be_done) => {
                    return Ok(Begun::Done);
                }
                Err(Trouble::Exists) => self.part += 1,
                Err(trouble) => self.bear(trouble, &mut pauses).await?,
            }
        }
    }

    /// Stores what can be stored; `false` if what was is lost.
    async fn drive(&mut self) -> Result<bool, String> {
        let mut pauses = pauses();
        while let Some(upload) = &mut self.upload {
            match upload.step(&self.storage).await {
                Ok(Step::Idle | Step::Finished) => return Ok(true),
                Ok(Step::Next) => (self.trouble, pauses) = (None, self::pauses()),
                Err(Trouble::Gone | Trouble::Exists) => {
                    tracing::warn!("the upload of the log is lost, and begun again");
                    self.upload = None;
                    // A session that stored the end may be forgotten before it could say so.
                    if self.complete && self.begin().await? == Begun::Done {
                        return Ok(true);
                    }
                    self.complete = false;
                    self.shared.lock().lose();
                    return Ok(false);
                }
                Err(trouble) => self.bear(trouble, &mut pauses).await?,
            }
        }
        Ok(true)
    }

    /// Waits until there is hope again; `Err` if there is none.
    async fn bear(
        &mut self,
        trouble: Trouble,
        pauses: &mut impl Iterator<Item = Duration>,
    ) -> Result<(), String> {
        let pause = pauses.next().unwrap_or(LONGEST_PAUSE);
        let (why, pause) = match trouble {
            Trouble::Refused(why) if self.ending.borrow().is_some() => return Err(why),
            Trouble::Refused(why) => (why, SLOW_PAUSE),
            Trouble::Passing(why, after) => (why, pause.max(after.unwrap_or_default())),
            Trouble::Gone | Trouble::Exists => ("the upload of the log is lost".to_owned(), pause),
        };
        if self.trouble.as_ref() != Some(&why) {
            tracing::warn!(error = why, "the log is not uploaded yet");
        }
        self.trouble = Some(why);
        self.pause(pause).await;
        Ok(())
    }

    /// The job's end is a reason to try once more at once.
    async fn pause(&mut self, pause: Duration) {
        tokio::select! {
            () = sleep(pause) => {}
            _ = self.ending.changed() => {}
        }
    }

    /// Takes the log from its beginning, as fast as it can be stored.
    async fn read_again(&mut self) -> Result<(), String> {
        let was_over = self.job_is_over().await;
        let Some(mut reader) = self.open().await else {
            self.shared.lock().go_on_live();
            return Ok(());
        };
        tracing::info!("reading the log for Cloud Storage from its beginning");
        self.shared.lock().start_over();
        let read_until = at(self.ending.clone(), |ending| ending.read_until);
        tokio::pin!(read_until);
        let (shared, mut redactor) = (Arc::clone(&self.shared), Redactor::new(&self.of.redaction));
        loop {
            let mut take = |stream: Stream, piece: &[u8]| {
                redactor.read(stream, piece, |shown| shared.lock().take(stream, shown));
            };
            let read = tokio::select! {
                read = reader.read(&mut take) => read,
                () = &mut read_until => break,
            };
            match read {
                ControlFlow::Continue(()) if shared.lock().is_ready() => {
                    if !self.send().await? {
                        return Ok(());
                    }
                }
                ControlFlow::Continue(()) => {}
                ControlFlow::Break(_) if was_over => break,
                // Whoever is behind at the job's end does not get the rest (FACTS).
                ControlFlow::Break(_) if self.job_is_over().await => {
                    self.ended().await;
                    if shared.lock().lacks_some() {
                        return Ok(());
                    }
                    break;
                }
                ControlFlow::Break(_) => {
                    self.pause(FIRST_PAUSE).await;
                    return Ok(());
                }
            }
        }
        redactor.finish(|stream, shown| shared.lock().take(stream, shown));
        shared.lock().source = Source::Over;
        Ok(())
    }

    /// The log that the Engine keeps, if it keeps one.
    async fn open(&mut self) -> Option<OutputReader> {
        let mut pauses = pauses();
        loop {
            match self.of.container.logs(self.of.tty, None).await {
                Ok(reader) => return Some(reader),
                Err(error) if !error.may_pass() || error.status() == Some(StatusCode::NOT_IMPLEMENTED) => {
                    tracing::warn!(error = http::chain(&error), "the log cannot be read again");
                    return None;
                }
                Err(error) => tracing::debug!(error = http::chain(&error), "the log is read again later"),
            }
            self.pause(pauses.next().unwrap_or(LONGEST_PAUSE)).await;
        }
    }

    /// Waits until everything was offered.
    async fn ended(&mut self) {
        // Whoever would wait for the upload may be gone, and this with it.
        let _ = self.ending.wait_for(Option::is_some).await;
    }

    /// Whether the Engine has closed the log: the attached stream ends before that.
    async fn job_is_over(&self) -> bool {
        self.of.container.state().await.is_ok_and(|state| !state.running)
    }
}

fn pauses() -> impl Iterator<Item = Duration> + Send {
    backoff::delays(FIRST_PAUSE, LONGEST_PAUSE)
}

/// Returns at a time after the job's end, which may yet come nearer.
async fn at(mut ending: watch::Receiver<Option<Ending>>, time: fn(Ending) -> Instant) {
    loop {
        let until = ending.borrow_and_update().map(time);
        tokio::select! {
            () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => return,
            changed = ending.changed() => if changed.is_err() { return },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read, sync::Mutex};

    use flate2::read::GzDecoder;
    use sandbox::{BUCKET, Sandbox};
    use serde_json::json;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
        sync::Notify,
        time::timeout,
    };

    use super::*;
    use crate::{
        archive::intake::Intake,
        engine::{Container, Engine},
        google::{Metadata, Outside, Tokens},
        logs::Redaction,
        settings::DockerHost,
    };

    #[tokio::test]
    async fn before_a_session_is_too_old_its_object_is_finished_and_another_one_begun() {
        let sandbox = Sandbox::builder().start().await.unwrap();
        let (ending, seen) = watch::channel(None);
        let mut uploader = uploader(&sandbox, seen).await;
        uploader.oldest = Duration::ZERO;
        let shared = Arc::clone(&uploader.shared);
        let uploading = tokio::spawn(uploader.run());
        let log = noise(3 << 20);
        for (half, finished) in log.chunks(log.len() / 2).zip([2, 4]) {
            for piece in half.chunks(32 << 10) {
                shared.lock().offer(Stream::Out, piece);
            }
            shared.news.notify_one();
            // A part, and the end.
            let finished = sandbox.requested(finished, "PUT storage.googleapis.com");
            timeout(Duration::from_secs(60), finished).await.unwrap();
        }
        ending.send_replace(Some(Ending::within(Duration::from_secs(60))));
        let archived = uploading.await.unwrap();
        assert_eq!(archived.uri, Some(format!("gs://{BUCKET}/run/attempt-1.*log")));
        assert_eq!(archived.missing, None);
        let objects = sandbox.objects();
        assert_eq!(objects[1].name, "run/attempt-1.part-02.log");
        let mut text = Vec::new();
        for object in objects {
            GzDecoder::new(&*object.bytes).read_to_end(&mut text).unwrap();
        }
        assert!(text == log);
    }

    /// Bytes that cannot be packed: xorshift64.
    fn noise(count: usize) -> Vec<u8> {
        let mut random = 1_u64;
        let next = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random >> 32) as u8
        };
        std::iter::repeat_with(next).take(count).collect()
    }

    async fn uploader(sandbox: &Sandbox, ending: watch::Receiver<Option<Ending>>) -> Uploader {
        let address: reqwest::Url = format!("http://{}", sandbox.address()).parse().unwrap();
        let tokens = Arc::new(Tokens::of_vm(Metadata::new(address.clone())));
        let storage = Storage::new(Outside::new(Some(address)), tokens);
        let names = Names { bucket: BUCKET.to_owned(), stem: "run/attempt-1".to_owned() };
        let of = LogOf {
            container: container().await,
            tty: false,
            redaction: Redaction::default(),
            attempt: 1,
            image: None,
            started_before: None,
        };
        let shared = Arc::new(Shared { intake: Mutex::new(Intake::new()), news: Notify::new() });
        Uploader::new(storage, names, json!({}), of, shared, ending)
    }

    /// Of an Engine that answers one ping and no more.
    async fn container() -> Container {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        tokio::spawn(async move {
            let (mut client, _) = listener.accept().await.unwrap();
            assert_ne!(client.read(&mut [0; 1024]).await.unwrap(), 0);
            let answer = b"HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nContent-Length: 0\r\n\r\n";
            client.write_all(answer).await.unwrap();
        });
        let engine = Engine::connect(&DockerHost::Tcp(address), Duration::from_secs(10)).await;
        engine.unwrap().container("x")
    }
}
