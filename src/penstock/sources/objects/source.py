"""A bucket of documents: what is in it, then every create, change and delete."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from hashlib import sha256
from typing import Final

from penstock.clock import Clock, SystemClock
from penstock.errors import PenstockError, UnavailableError
from penstock.records import Row
from penstock.sources.amazon import AmazonAccess, AmazonClient
from penstock.sources.base import Finding, SourceBatch, State, StateChange
from penstock.sources.documents.found import Found
from penstock.sources.documents.patterns import EVERYTHING, HIDDEN_AND_TEMPORARY, Patterns
from penstock.sources.documents.rows import document_of, extracted_document
from penstock.sources.documents.sidecars import SidecarExtractor
from penstock.sources.extract import ChildExtractor, Extractor
from penstock.sources.objects.bucket import Bucket, Place, Refused, S3Bucket
from penstock.sources.objects.hints import QueueHints
from penstock.sources.objects.lists import ListKeys
from penstock.sources.objects.looking import Verdict, look
from penstock.sources.objects.reading import Reading

MAX_BYTES: Final = 50_000_000
_THREADS: Final = 16
_CHECKED_PAGES: Final = 5


class ObjectsSource:
    """The documents below a prefix of a bucket.

    An object's key is its name below the prefix; a change's position is the number of the change,
    kept in the state beside one fingerprint for each object. What exists at first travels in the
    bulk lane, in the order of the listing. The bucket is listed again every ``relist_s``; with a
    ``queue`` that gets the store's events, a change is noticed at once, and listing finds what the
    events did not tell. An object that is stored again with the same content is no change,
    unless its metadata have the ``lists`` of who may see it and now say something else.
    """

    def __init__(
        self,
        name: str,
        place: Place,
        *,
        access: AmazonAccess | None = None,
        queue: str | None = None,
        include: Sequence[str] = EVERYTHING,
        exclude: Sequence[str] = HIDDEN_AND_TEMPORARY,
        sidecars: bool = False,
        lists: ListKeys | None = None,
        max_bytes: int = MAX_BYTES,
        images: bool = False,
        relist_s: float = 60.0,
        clock: Clock | None = None,
        extractor: Extractor | None = None,
        open_bucket: Callable[[], Bucket] | None = None,
    ) -> None:
        self.name = name
        self._place = place
        self._access = access or AmazonAccess()
        self._queue = queue
        self._patterns = Patterns(include, exclude, sidecars=sidecars, images=images)
        self._lists = lists
        self._max_bytes = max_bytes
        self._relist_s = relist_s
        self._clock = clock or SystemClock()
        self._extractor = extractor or ChildExtractor()
        if sidecars:
            self._extractor = SidecarExtractor(self._extractor)
        self._hints: QueueHints | None = None
        self._bucket = open_bucket or self._s3_bucket

    def _s3_bucket(self) -> Bucket:
        return S3Bucket(self._place, self._access, threads=_THREADS)

    def _queue_client(self) -> AmazonClient:
        what = f"the queue {self._queue!r}"
        return AmazonClient(self._access, "sqs", what=what, extra="objects", threads=1)

    async def read(self, state: State) -> AsyncIterator[SourceBatch]:
        """See `Source.read`."""
        hints = None
        if self._queue is not None:
            hints = QueueHints(
                self._queue,
                self._place,
                number=int(state.get("hints", "0")),
                client=self._queue_client(),
            )
        self._hints = hints
        reading = Reading(
            self.name,
            self._bucket(),
            hints,
            self._patterns,
            self._extractor,
            self._clock,
            self._max_bytes,
            state,
            self._lists,
        )
        try:
            async for batch in reading.batches(self._relist_s):
                yield batch
        finally:
            await reading.close()

    async def acknowledge(self, state: StateChange) -> None:
        """Messages of the queue whose news are durable are removed from it."""
        number = state.get("hints")
        if self._hints is not None and number is not None:
            await self._hints.done(int(number))

    async def close(self) -> None:
        """End the processes that read documents."""
        await self._extractor.close()

    # ------------------------------------------------------------ looking at it

    async def digests(self) -> dict[str, str | None]:
        """See `ComparableDocuments.digests`; every object is read."""
        digests: dict[str, str | None] = {}
        bucket = self._bucket()
        try:
            async for page in bucket.pages():
                for version in page:
                    if self._patterns.wanted(version.key):
                        found = await look(bucket, version, None, self._max_bytes)
                        if isinstance(found, Found):
                            data = found.data
                            digests[found.key] = None if data is None else sha256(data).hexdigest()
        finally:
            await bucket.close()
        return digests

    async def reread(self, key: str) -> Row | None:
        """See `ComparableDocuments.reread`."""
        bucket = self._bucket()
        try:
            version = await bucket.look(key)
            if version is None:
                return None
            if isinstance(version, Refused):  # not to be seen is not to be gone
                raise UnavailableError(version.reason)
            found = await look(bucket, version, None, self._max_bytes, self._lists)
        finally:
            await bucket.close()
        if found is Verdict.CHANGING:
            raise UnavailableError(f"expected {key!r} to rest, it is being replaced: try again")
        if not isinstance(found, Found):
            return None
        document = document_of(found, None, self._extractor)
        return (document or await extracted_document(found, None, self._extractor)).row

    async def check(self) -> Sequence[Finding]:
        """List a few pages, read an object, and look at the queue, without taking from it."""
        findings: list[Finding] = []
        mend = "correct bucket, endpoint, region or keys; s3:ListBucket and s3:GetObject are needed"
        bucket = self._bucket()
        try:
            findings += await self._check_bucket(bucket)
        except PenstockError as error:
            findings.append(Finding(f"{self.name}: connection", "error", str(error), mend))
        finally:
            await bucket.close()
        if self._queue is not None:
            findings.append(await self._check_queue())
        return findings

    async def _check_bucket(self, bucket: Bucket) -> list[Finding]:
        count, large, pages, readable = 0, 0, 0, None
        async for page in bucket.pages():
            wanted = [version for version in page if self._patterns.wanted(version.key)]
            count += len(wanted)
            large += sum(version.size > self._max_bytes for version in wanted)
            if readable is None and wanted:
                smallest = min(wanted, key=lambda version: version.size)
                readable = await bucket.get(smallest) if smallest.size <= self._max_bytes else None
            pages += 1
            if pages == _CHECKED_PAGES:
                break
        more = " or more" if pages == _CHECKED_PAGES else ""
        found = [Finding(self.name, "ok", f"{self._place}: {count:,}{more} objects to read")]
        if isinstance(readable, Refused):
            found.append(Finding(self.name, "error", readable.reason, "grant s3:GetObject"))
        if large:
            message = f"{large:,} objects larger than {self._max_bytes:,} bytes"
            found.append(Finding(self.name, "warning", message, "split, or raise max_size"))
        return found

    async def _check_queue(self) -> Finding:
        client = self._queue_client()
        subject = f"{self.name}: queue"
        try:
            answer = await client.call(
                "get_queue_attributes",
                QueueUrl=self._queue,
                AttributeNames=["ApproximateNumberOfMessages"],
            )
        except PenstockError as error:
            mend = "correct `queue`; sqs:ReceiveMessage and sqs:DeleteMessage are needed"
            return Finding(subject, "error", str(error), mend)
        finally:
            await client.close()
        waiting = answer["Attributes"]["ApproximateNumberOfMessages"]
        return Finding(subject, "ok", f"{self._queue}: about {waiting} messages wait")
