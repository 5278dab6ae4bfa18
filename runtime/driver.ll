; The driver: walks the table of steps of a program natively, on one worker or on a team of them.
;
; Compiled by driver.py when first used. All fields are 64 bits wide; executor.py and team.py write them, and their names are the same there.
; On errors: a kernel returns a code and stores the offending value in slot 0 of its extents. The walk records both for its worker and
; lowers Call.failed to the step's number; steps after a failed one are skipped, but every barrier is still met, so nobody waits in vain.
;
; A kernel is called for one of so many equal shares of its tasks. Each worker has a row of them of its own, and is helped by those that are
; done with theirs. Of several shares that fail the first is reported: a worker stops at its first failure, but only what lies in its own row, or is
; taken when its own row is used up, can be that, so that no share before the first that fails is left out.
;
; Of several images, those that share out evenly are computed each by one worker, which takes the next one when it is done, and has an arena of
; its own. Images are taken in their order, and one that is taken is computed whatever happens to others: the first that fails is reported.

; What is the same in every call of a program.
%Program = type {
  i64,  ; 0 steps          address of %Step[]
  i64,  ; 1 n_steps
  i64,  ; 2 arguments      address of i64[]: for each step its (base number, byte offset) pairs, then its extents
  i64,  ; 3 max_buffers    of any step
  i64,  ; 4 max_extents    of any step, slot 0 included
  i64,  ; 5 scratch        bytes from the arena to the scratch of worker 0
  i64,  ; 6 scratch_stride bytes between the scratch of one worker and the next
  i64,  ; 7 n_tensors      inputs and outputs
  i64,  ; 8 images         how often a call walks the steps, each time on the next part of its inputs and outputs
  i64,  ; 9 strides        address of i64[n_tensors]: bytes from one such part to the next
  i64,  ; 10 apart         how many of these images, from the first, are each computed by one worker
  i64,  ; 11 crew          how many workers compute them
  i64,  ; 12 flags         as those of a step
  i64   ; 13 arena_stride  bytes between the arena of one of these workers and the next
}

; One call of a program. bases: [0 (offsets are addresses: constants), arena, scratch of worker 0, inputs..., outputs...].
%Call = type {
  ptr,  ; 0 program
  ptr,  ; 1 bases
  ptr,  ; 2 failures       %Failure[workers]
  ptr,  ; 3 clock          null, or i64[n_steps + 1]: when worker 0 was last seen, and how many nanoseconds it was at each step
  i64,  ; 4 failed         number of the first step that failed, -1 while none has
  i64   ; 5 taken          how many images were taken of those that one worker computes
}

%Step = type {
  i64,  ; 0 kernel         address
  i64,  ; 1 first          index of its first argument
  i64,  ; 2 n_buffers
  i64,  ; 3 n_extents      without slot 0
  i64,  ; 4 flags          1: workers meet after it, 2: worth waiting for workers that sleep, 4: worth waking them
  i64,  ; 5 crew           how many workers may share it
  i64,  ; 6 end            number of the first step after it that another crew runs
  i64   ; 7 pieces         shares in the row of each worker
}

%Failure = type { i64, i64, i64, i64, i64 }  ; step, code, value, share, image (-1 where workers share the steps of one)

; Something that opens again and again: who waits for generation g + 1 spins for a while, then sleeps. Now and then a spinning thread
; offers its CPU to others, since the one it waits for may be in need of it.
%Gate = type {
  i64,         ; 0 generation
  i64,         ; 1 sleepers
  i64,         ; 2 limit      nanoseconds of looking before sleeping
  i64,         ; 3 called     1: who sleeps shall spin again
  [4 x i64],
  [128 x i8],  ; 5 mutex      (the largest pthread_mutex_t known is 64 bytes, pthread_cond_t 48)
  [128 x i8]   ; 6 condition
}

; A worker, and the steps that it has been given: a long-lived thread, or, worker 0, whichever thread dispatches.
%Member = type {
  %Gate,       ; 0 start
  i64,         ; 1 rank      its number in the crew; 0 while it has nothing to do
  i64,         ; 2 crew
  i64,         ; 3 step      the first, -1 for images; null in Team.call tells it to end
  [5 x i64],
  i64,         ; 5 claimed   how many shares were taken of the row of the worker of this rank
  [7 x i64]
}

%Team = type {
  i64, [7 x i64],  ; 0 busy
  i64,             ; 2 workers
  i64,             ; 3 call
  [6 x i64],
  i64, [7 x i64],  ; 5 arrived    at the barrier
  %Gate,           ; 7 barrier
  [0 x %Member]    ; 8 members
}

declare i32 @pthread_mutex_init(ptr, ptr)
declare i32 @pthread_mutex_lock(ptr)
declare i32 @pthread_mutex_unlock(ptr)
declare i32 @pthread_cond_init(ptr, ptr)
declare i32 @pthread_cond_wait(ptr, ptr)
declare i32 @pthread_cond_broadcast(ptr)
declare i32 @sched_yield()
declare i32 @clock_gettime(i32, ptr)
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)

; The monotonic clock in nanoseconds.
define internal i64 @now() {
  %time = alloca [2 x i64]
  %clock = load i32, ptr @clock
  call i32 @clock_gettime(i32 %clock, ptr %time)
  %nanoseconds.at = getelementptr i64, ptr %time, i64 1
  %seconds = load i64, ptr %time
  %nanoseconds = load i64, ptr %nanoseconds.at
  %scaled = mul i64 %seconds, 1000000000
  %total = add i64 %scaled, %nanoseconds
  ret i64 %total
}

; ---------------------------------------------------------------------------------------------------------------- gates

define internal void @gate_init(ptr %gate, i64 %nanoseconds) {
  %limit = getelementptr %Gate, ptr %gate, i64 0, i32 2
  %mutex = getelementptr %Gate, ptr %gate, i64 0, i32 5
  %condition = getelementptr %Gate, ptr %gate, i64 0, i32 6
  store i64 %nanoseconds, ptr %limit
  call i32 @pthread_mutex_init(ptr %mutex, ptr null)
  call i32 @pthread_cond_init(ptr %condition, ptr null)
  ret void
}

; Returns once the generation differs from `seen`.
define internal void @gate_wait(ptr %gate, i64 %seen) {
entry:
  %limit.at = getelementptr %Gate, ptr %gate, i64 0, i32 2
  %called.at = getelementptr %Gate, ptr %gate, i64 0, i32 3
  %limit = load i64, ptr %limit.at
  br label %fresh

fresh:
  br label %spin

spin:
  %i = phi i64 [ 0, %fresh ], [ %i.next, %pause ], [ %i.next, %resume ]
  %start = phi i64 [ 0, %fresh ], [ %start, %pause ], [ %start.known, %resume ]
  %g0 = load atomic i64, ptr %gate acquire, align 8
  %open0 = icmp ne i64 %g0, %seen
  br i1 %open0, label %through, label %closed

closed:
  %i.next = add i64 %i, 1
  %round = and i64 %i.next, 63
  %offer = icmp eq i64 %round, 0
  br i1 %offer, label %yield, label %pause

pause:
  call void @relax()
  br label %spin

; A yield alone takes up to 5 microseconds, when computing has driven the system's code out of the caches. One that took far longer went to a
; thread that needs this CPU, which may be the one waited for: then sleep, and be woken elsewhere. To sleep in vain costs 50 microseconds.
yield:
  %before = call i64 @now()
  call i32 @sched_yield()
  %after = call i64 @now()
  %first = icmp eq i64 %start, 0
  %start.known = select i1 %first, i64 %before, i64 %start
  %waited = sub i64 %after, %start.known
  %away = sub i64 %after, %before
  %tired = icmp ugt i64 %waited, %limit
  %crowded = icmp ugt i64 %away, 50000
  %stop = or i1 %tired, %crowded
  br i1 %stop, label %sleep, label %resume

resume:
  br label %spin

through:
  ret void

; The sleeper announces itself before it looks again; gate_open raises the generation before it looks for sleepers (both sequentially
; consistent): one of them sees the other.
sleep:
  %sleepers = getelementptr %Gate, ptr %gate, i64 0, i32 1
  %mutex = getelementptr %Gate, ptr %gate, i64 0, i32 5
  %condition = getelementptr %Gate, ptr %gate, i64 0, i32 6
  call i32 @pthread_mutex_lock(ptr %mutex)
  atomicrmw add ptr %sleepers, i64 1 seq_cst
  br label %look

look:
  %g1 = load atomic i64, ptr %gate seq_cst, align 8
  %open1 = icmp ne i64 %g1, %seen
  br i1 %open1, label %awake, label %listen

listen:
  %called = atomicrmw xchg ptr %called.at, i64 0 seq_cst
  %wanted = icmp ne i64 %called, 0
  br i1 %wanted, label %rise, label %wait

rise:
  atomicrmw sub ptr %sleepers, i64 1 seq_cst
  call i32 @pthread_mutex_unlock(ptr %mutex)
  br label %fresh

wait:
  call i32 @pthread_cond_wait(ptr %condition, ptr %mutex)
  br label %look

awake:
  atomicrmw sub ptr %sleepers, i64 1 seq_cst
  call i32 @pthread_mutex_unlock(ptr %mutex)
  ret void
}

define internal void @gate_wake(ptr %gate) {
  %mutex = getelementptr %Gate, ptr %gate, i64 0, i32 5
  %condition = getelementptr %Gate, ptr %gate, i64 0, i32 6
  call i32 @pthread_mutex_lock(ptr %mutex)
  call i32 @pthread_cond_broadcast(ptr %condition)
  call i32 @pthread_mutex_unlock(ptr %mutex)
  ret void
}

define internal void @gate_open(ptr %gate) {
  atomicrmw add ptr %gate, i64 1 seq_cst
  %sleepers = getelementptr %Gate, ptr %gate, i64 0, i32 1
  %n = load atomic i64, ptr %sleepers seq_cst, align 8
  %none = icmp eq i64 %n, 0
  br i1 %none, label %done, label %wake

wake:
  call void @gate_wake(ptr %gate)
  br label %done

done:
  ret void
}

; Who sleeps at the gate shall spin again. Once called, it need not be called again until it sleeps again.
define internal void @gate_call(ptr %gate) {
  %called.at = getelementptr %Gate, ptr %gate, i64 0, i32 3
  %before = atomicrmw xchg ptr %called.at, i64 1 seq_cst
  %first = icmp eq i64 %before, 0
  br i1 %first, label %wake, label %done

wake:
  call void @gate_wake(ptr %gate)
  br label %done

done:
  ret void
}

; All workers of a crew meet, and the last forgets what they claimed. The generation is read before arriving: it cannot change until this worker
; has arrived.
define internal void @meet(ptr %team, i64 %workers) {
entry:
  %arrived = getelementptr %Team, ptr %team, i64 0, i32 5
  %barrier = getelementptr %Team, ptr %team, i64 0, i32 7
  %seen = load atomic i64, ptr %barrier monotonic, align 8
  %before = atomicrmw add ptr %arrived, i64 1 acq_rel
  %count = add i64 %before, 1
  %last = icmp eq i64 %count, %workers
  br i1 %last, label %open, label %wait

open:
  %rank = phi i64 [ 0, %entry ], [ %rank.next, %open ]
  %claimed = getelementptr %Team, ptr %team, i64 0, i32 8, i64 %rank, i32 5
  store atomic i64 0, ptr %claimed monotonic, align 8
  %rank.next = add i64 %rank, 1
  %others = icmp ult i64 %rank.next, %workers
  br i1 %others, label %open, label %through

through:
  store atomic i64 0, ptr %arrived monotonic, align 8
  call void @gate_open(ptr %barrier)
  ret void

wait:
  call void @gate_wait(ptr %barrier, i64 %seen)
  ret void
}

; ---------------------------------------------------------------------------------------------------------------- steps

define internal void @start_clock(ptr %clock) {
  %time = call i64 @now()
  store i64 %time, ptr %clock
  ret void
}

; Adds the time since worker 0 was last seen to that of a step.
define internal void @clock_step(ptr %clock, i64 %step) {
  %slot.number = add i64 %step, 1
  %slot = getelementptr i64, ptr %clock, i64 %slot.number
  %before = load i64, ptr %clock
  %now = call i64 @now()
  %passed = sub i64 %now, %before
  %sum = load i64, ptr %slot
  %sum.next = add i64 %sum, %passed
  store i64 %now, ptr %clock
  store i64 %sum.next, ptr %slot
  ret void
}

; pointers[i] = bases[number i] + offset i, with this worker's part of the scratch.
define internal void @resolve(ptr %pointers, ptr %arguments, i64 %n, ptr %bases, i64 %scratch) {
entry:
  %empty = icmp eq i64 %n, 0
  br i1 %empty, label %done, label %next

next:
  %i = phi i64 [ 0, %entry ], [ %i.next, %next ]
  %pair = getelementptr [2 x i64], ptr %arguments, i64 %i
  %offset.at = getelementptr [2 x i64], ptr %pair, i64 0, i64 1
  %number = load i64, ptr %pair
  %offset = load i64, ptr %offset.at
  %base.at = getelementptr i64, ptr %bases, i64 %number
  %base = load i64, ptr %base.at
  %own = icmp eq i64 %number, 2
  %extra = select i1 %own, i64 %scratch, i64 0
  %partial = add i64 %base, %offset
  %address = add i64 %partial, %extra
  %slot = getelementptr i64, ptr %pointers, i64 %i
  store i64 %address, ptr %slot
  %i.next = add i64 %i, 1
  %more = icmp ult i64 %i.next, %n
  br i1 %more, label %next, label %done

done:
  ret void
}

; Slot 0 is cleared, the rest copied: kernels may write there, and workers must not share it.
define internal void @copy_extents(ptr %extents, ptr %source, i64 %n) {
entry:
  store i64 0, ptr %extents
  %empty = icmp eq i64 %n, 0
  br i1 %empty, label %done, label %next

next:
  %i = phi i64 [ 0, %entry ], [ %i.next, %next ]
  %from = getelementptr i64, ptr %source, i64 %i
  %value = load i64, ptr %from
  %i.next = add i64 %i, 1
  %to = getelementptr i64, ptr %extents, i64 %i.next
  store i64 %value, ptr %to
  %more = icmp ult i64 %i.next, %n
  br i1 %more, label %next, label %done

done:
  ret void
}

; Numba's calling convention: a slot for the value returned, a slot for the exception; the i32 returned is Numba's own status.
define internal i64 @invoke(i64 %address, ptr %pointers, ptr %extents, i64 %worker, i64 %workers) {
  %code.at = alloca i64
  %exception.at = alloca ptr
  store i64 0, ptr %code.at
  store ptr null, ptr %exception.at
  %kernel = inttoptr i64 %address to ptr
  %status = call i32 %kernel(ptr %code.at, ptr %exception.at, ptr %pointers, ptr %extents, i64 %worker, i64 %workers)
  %code = load i64, ptr %code.at
  %fine = icmp eq i32 %status, 0
  %result = select i1 %fine, i64 %code, i64 -1
  ret i64 %result
}

; One of `workers` does its row of `pieces` shares, and then what is left of the rows of others: whoever is slower at the time gets less to do.
; Returns the first code that is not 0, and the number of the share.
define internal { i64, i64 } @claim(i64 %address, ptr %pointers, ptr %extents, i64 %worker, i64 %workers, i64 %pieces, ptr %team) {
entry:
  %count = mul i64 %workers, %pieces
  br label %row

row:
  %visited = phi i64 [ 0, %entry ], [ %visited.next, %used.up ]
  %rank = phi i64 [ %worker, %entry ], [ %rank.next, %used.up ]
  %claimed = getelementptr %Team, ptr %team, i64 0, i32 8, i64 %rank, i32 5
  %first = mul i64 %rank, %pieces
  br label %next

next:
  %number = atomicrmw add ptr %claimed, i64 1 monotonic
  %left = icmp ult i64 %number, %pieces
  br i1 %left, label %compute, label %used.up

compute:
  %at = add i64 %first, %number
  %code = call i64 @invoke(i64 %address, ptr %pointers, ptr %extents, i64 %at, i64 %count)
  %fine = icmp eq i64 %code, 0
  br i1 %fine, label %next, label %failed

failed:
  %partial = insertvalue { i64, i64 } poison, i64 %code, 0
  %failure = insertvalue { i64, i64 } %partial, i64 %at, 1
  ret { i64, i64 } %failure

used.up:
  %visited.next = add i64 %visited, 1
  %beyond = add i64 %rank, 1
  %round = icmp eq i64 %beyond, %workers
  %rank.next = select i1 %round, i64 0, i64 %beyond
  %more = icmp ult i64 %visited.next, %workers
  br i1 %more, label %row, label %done

done:
  ret { i64, i64 } zeroinitializer
}

define internal void @fail(ptr %call, i64 %worker, i64 %step, i64 %code, ptr %extents, i64 %share) {
  %failures.at = getelementptr %Call, ptr %call, i64 0, i32 2
  %failures = load ptr, ptr %failures.at
  %failure = getelementptr %Failure, ptr %failures, i64 %worker
  %code.at = getelementptr %Failure, ptr %failure, i64 0, i32 1
  %value.at = getelementptr %Failure, ptr %failure, i64 0, i32 2
  %share.at = getelementptr %Failure, ptr %failure, i64 0, i32 3
  %value = load i64, ptr %extents
  store i64 %step, ptr %failure
  store i64 %code, ptr %code.at
  store i64 %value, ptr %value.at
  store i64 %share, ptr %share.at
  %failed.at = getelementptr %Call, ptr %call, i64 0, i32 4
  atomicrmw umin ptr %failed.at, i64 %step seq_cst
  ret void
}

; What each of `workers` does for the steps from `from` to `to`.
define internal void @walk(ptr %call, i64 %from, i64 %to, i64 %worker, i64 %workers, ptr %team) {
entry:
  %bases.at = getelementptr %Call, ptr %call, i64 0, i32 1
  %clock.at = getelementptr %Call, ptr %call, i64 0, i32 3
  %failed.at = getelementptr %Call, ptr %call, i64 0, i32 4
  %program = load ptr, ptr %call
  %arguments.at = getelementptr %Program, ptr %program, i64 0, i32 2
  %max.buffers.at = getelementptr %Program, ptr %program, i64 0, i32 3
  %max.extents.at = getelementptr %Program, ptr %program, i64 0, i32 4
  %stride.at = getelementptr %Program, ptr %program, i64 0, i32 6
  %steps = load ptr, ptr %program
  %arguments = load ptr, ptr %arguments.at
  %bases = load ptr, ptr %bases.at
  %stride = load i64, ptr %stride.at
  %max.buffers = load i64, ptr %max.buffers.at
  %max.extents = load i64, ptr %max.extents.at
  %clock = load ptr, ptr %clock.at
  %scratch = mul i64 %stride, %worker
  %pointers = alloca i64, i64 %max.buffers
  %extents = alloca i64, i64 %max.extents
  %first = icmp eq i64 %worker, 0
  %alone = icmp eq i64 %workers, 1
  %timing = icmp ne ptr %clock, null
  %timed = and i1 %first, %timing
  br label %loop

loop:
  %s = phi i64 [ %from, %entry ], [ %s.next, %advance ]
  %more = icmp ult i64 %s, %to
  br i1 %more, label %look, label %done

look:
  %s.next = add i64 %s, 1
  %step = getelementptr %Step, ptr %steps, i64 %s
  %flags.at = getelementptr %Step, ptr %step, i64 0, i32 4
  %flags = load i64, ptr %flags.at
  %failed = load atomic i64, ptr %failed.at monotonic, align 8
  %sound = icmp uge i64 %failed, %s
  br i1 %sound, label %compute, label %after

compute:
  %first.at = getelementptr %Step, ptr %step, i64 0, i32 1
  %n.buffers.at = getelementptr %Step, ptr %step, i64 0, i32 2
  %n.extents.at = getelementptr %Step, ptr %step, i64 0, i32 3
  %kernel = load i64, ptr %step
  %first.argument = load i64, ptr %first.at
  %n.buffers = load i64, ptr %n.buffers.at
  %n.extents = load i64, ptr %n.extents.at
  %buffer.arguments = getelementptr i64, ptr %arguments, i64 %first.argument
  %extent.arguments = getelementptr [2 x i64], ptr %buffer.arguments, i64 %n.buffers
  call void @resolve(ptr %pointers, ptr %buffer.arguments, i64 %n.buffers, ptr %bases, i64 %scratch)
  call void @copy_extents(ptr %extents, ptr %extent.arguments, i64 %n.extents)
  %pieces.at = getelementptr %Step, ptr %step, i64 0, i32 7
  %pieces = load i64, ptr %pieces.at
  %whole = icmp eq i64 %pieces, 1
  %fixed = or i1 %alone, %whole
  br i1 %fixed, label %at.once, label %by.claims

at.once:
  %code.once = call i64 @invoke(i64 %kernel, ptr %pointers, ptr %extents, i64 %worker, i64 %workers)
  br label %computed

by.claims:
  %claims = call { i64, i64 } @claim(i64 %kernel, ptr %pointers, ptr %extents, i64 %worker, i64 %workers, i64 %pieces, ptr %team)
  %code.claims = extractvalue { i64, i64 } %claims, 0
  %share.claims = extractvalue { i64, i64 } %claims, 1
  br label %computed

computed:
  %code = phi i64 [ %code.once, %at.once ], [ %code.claims, %by.claims ]
  %share = phi i64 [ %worker, %at.once ], [ %share.claims, %by.claims ]
  %fine = icmp eq i64 %code, 0
  br i1 %fine, label %after, label %failed.here

failed.here:
  call void @fail(ptr %call, i64 %worker, i64 %s, i64 %code, ptr %extents, i64 %share)
  br label %after

after:
  %barrier.bit = and i64 %flags, 1
  %open = icmp eq i64 %barrier.bit, 0
  %skip = or i1 %alone, %open
  br i1 %skip, label %clocked, label %barrier

barrier:
  call void @meet(ptr %team, i64 %workers)
  br label %clocked

clocked:
  br i1 %timed, label %stamp, label %advance

stamp:
  call void @clock_step(ptr %clock, i64 %s)
  br label %advance

advance:
  br label %loop

done:
  ret void
}

; ------------------------------------------------------------------------------------------------------- entry points

; Gives the steps from `step` on to workers of the team: to those that are awake, or to all when the step is worth waiting for. Returns how
; many run it, the calling thread included.
define internal i64 @gather(ptr %team, ptr %call, i64 %step, i64 %wanted, i64 %flags) {
entry:
  %workers.at = getelementptr %Team, ptr %team, i64 0, i32 2
  %call.at = getelementptr %Team, ptr %team, i64 0, i32 3
  %workers = load i64, ptr %workers.at
  %await.bit = and i64 %flags, 2
  %await = icmp ne i64 %await.bit, 0
  %wake.bit = and i64 %flags, 4
  %wake = icmp ne i64 %wake.bit, 0
  store ptr %call, ptr %call.at
  br label %next

next:
  %w = phi i64 [ 0, %entry ], [ %w.next, %step.on ]
  %crew = phi i64 [ 1, %entry ], [ %crew.next, %step.on ]
  %w.next = add i64 %w, 1
  %more = icmp ult i64 %w.next, %workers
  %lacking = icmp ult i64 %crew, %wanted
  %look = and i1 %more, %lacking
  br i1 %look, label %ask, label %count

ask:
  %member = getelementptr %Team, ptr %team, i64 0, i32 8, i64 %w.next
  %rank.at = getelementptr %Member, ptr %member, i64 0, i32 1
  %sleepers.at = getelementptr %Member, ptr %member, i64 0, i32 0, i32 1
  %sleepers = load atomic i64, ptr %sleepers.at monotonic, align 8
  %awake = icmp eq i64 %sleepers, 0
  %take = or i1 %awake, %await
  br i1 %take, label %assign, label %leave

assign:
  store i64 %crew, ptr %rank.at
  %larger = add i64 %crew, 1
  br label %step.on

leave:
  store i64 0, ptr %rank.at
  br i1 %wake, label %summon, label %step.on

summon:
  call void @gate_call(ptr %member)
  br label %step.on

step.on:
  %crew.next = phi i64 [ %larger, %assign ], [ %crew, %leave ], [ %crew, %summon ]
  br label %next

count:
  %alone = icmp eq i64 %crew, 1
  br i1 %alone, label %done, label %start

start:
  %m = phi i64 [ 0, %count ], [ %m.next, %started ]
  %left = phi i64 [ %crew, %count ], [ %left.next, %started ]
  %m.next = add i64 %m, 1
  %recruit = getelementptr %Team, ptr %team, i64 0, i32 8, i64 %m.next
  %its.rank.at = getelementptr %Member, ptr %recruit, i64 0, i32 1
  %its.crew.at = getelementptr %Member, ptr %recruit, i64 0, i32 2
  %its.step.at = getelementptr %Member, ptr %recruit, i64 0, i32 3
  %its.rank = load i64, ptr %its.rank.at
  %idle = icmp eq i64 %its.rank, 0
  br i1 %idle, label %started, label %open

open:
  store i64 %crew, ptr %its.crew.at
  store i64 %step, ptr %its.step.at
  call void @gate_open(ptr %recruit)
  %fewer = sub i64 %left, 1
  br label %started

started:
  %left.next = phi i64 [ %left, %start ], [ %fewer, %open ]
  %others = icmp ugt i64 %left.next, 1
  br i1 %others, label %start, label %done

done:
  ret i64 %crew
}

; Runs a call on the team, or on this thread alone when there is no team or it is busy. Workers are given a run of steps that they share,
; and meet after the last of it, so that none is still in the walk when this returns.
define internal void @dispatch(ptr %call, ptr %team) {
entry:
  %clock.at = getelementptr %Call, ptr %call, i64 0, i32 3
  %clock = load ptr, ptr %clock.at
  %program = load ptr, ptr %call
  %n.at = getelementptr %Program, ptr %program, i64 0, i32 1
  %steps = load ptr, ptr %program
  %n = load i64, ptr %n.at
  %timed = icmp ne ptr %clock, null
  br i1 %timed, label %stamp, label %choose

stamp:
  call void @start_clock(ptr %clock)
  br label %choose

choose:
  %none = icmp eq ptr %team, null
  br i1 %none, label %alone, label %claim

claim:
  %claimed = cmpxchg ptr %team, i64 0, i64 1 acquire monotonic
  %won = extractvalue { i64, i1 } %claimed, 1
  br i1 %won, label %loop, label %alone

alone:
  call void @walk(ptr %call, i64 0, i64 %n, i64 0, i64 1, ptr null)
  ret void

loop:
  %s = phi i64 [ 0, %claim ], [ %end, %solo ], [ %s.next, %single ], [ %end, %crewed ]
  %more = icmp ult i64 %s, %n
  br i1 %more, label %look, label %done

look:
  %s.next = add i64 %s, 1
  %flags.at = getelementptr %Step, ptr %steps, i64 %s, i32 4
  %crew.at = getelementptr %Step, ptr %steps, i64 %s, i32 5
  %end.at = getelementptr %Step, ptr %steps, i64 %s, i32 6
  %flags = load i64, ptr %flags.at
  %wanted = load i64, ptr %crew.at
  %end = load i64, ptr %end.at
  %shared = icmp ugt i64 %wanted, 1
  br i1 %shared, label %together, label %solo

solo:
  call void @walk(ptr %call, i64 %s, i64 %end, i64 0, i64 1, ptr null)
  br label %loop

together:
  %crew = call i64 @gather(ptr %team, ptr %call, i64 %s, i64 %wanted, i64 %flags)
  %deserted = icmp eq i64 %crew, 1
  br i1 %deserted, label %single, label %crewed

single:
  call void @walk(ptr %call, i64 %s, i64 %s.next, i64 0, i64 1, ptr null)
  br label %loop

crewed:
  call void @walk(ptr %call, i64 %s, i64 %end, i64 0, i64 %crew, ptr %team)
  br label %loop

done:
  store atomic i64 0, ptr %team release, align 8
  ret void
}

; The tensors so many images further on: each base moves by that many of its strides.
define internal void @move(ptr %program, ptr %bases, i64 %n, i64 %images) {
entry:
  %strides.at = getelementptr %Program, ptr %program, i64 0, i32 9
  %strides = load ptr, ptr %strides.at
  %empty = icmp eq i64 %n, 0
  br i1 %empty, label %done, label %next

next:
  %i = phi i64 [ 0, %entry ], [ %i.next, %next ]
  %stride.at = getelementptr i64, ptr %strides, i64 %i
  %base.at = getelementptr i64, ptr %bases, i64 %i
  %stride = load i64, ptr %stride.at
  %base = load i64, ptr %base.at
  %distance = mul i64 %stride, %images
  %moved = add i64 %base, %distance
  store i64 %moved, ptr %base.at
  %i.next = add i64 %i, 1
  %more = icmp ult i64 %i.next, %n
  br i1 %more, label %next, label %done

done:
  ret void
}

; What each of `workers` does for images that one worker computes: it walks all steps, alone and in its own arena, for the next image that
; nobody has taken, until none is left or one has failed.
define internal void @compute_images(ptr %call, i64 %worker, i64 %workers, ptr %team) {
entry:
  %own = alloca %Call
  %program = load ptr, ptr %call
  %call.bases.at = getelementptr %Call, ptr %call, i64 0, i32 1
  %call.failures.at = getelementptr %Call, ptr %call, i64 0, i32 2
  %call.clock.at = getelementptr %Call, ptr %call, i64 0, i32 3
  %call.failed.at = getelementptr %Call, ptr %call, i64 0, i32 4
  %taken.at = getelementptr %Call, ptr %call, i64 0, i32 5
  %call.bases = load ptr, ptr %call.bases.at
  %call.failures = load ptr, ptr %call.failures.at
  %call.clock = load ptr, ptr %call.clock.at
  %n.steps.at = getelementptr %Program, ptr %program, i64 0, i32 1
  %n.at = getelementptr %Program, ptr %program, i64 0, i32 7
  %apart.at = getelementptr %Program, ptr %program, i64 0, i32 10
  %stride.at = getelementptr %Program, ptr %program, i64 0, i32 13
  %n.steps = load i64, ptr %n.steps.at
  %n = load i64, ptr %n.at
  %apart = load i64, ptr %apart.at
  %stride = load i64, ptr %stride.at
  %n.bases = add i64 %n, 3
  %nbytes = mul i64 %n.bases, 8
  %bases = alloca i64, i64 %n.bases
  %arena.slot = getelementptr i64, ptr %bases, i64 1
  %scratch.slot = getelementptr i64, ptr %bases, i64 2
  %tensor.slots = getelementptr i64, ptr %bases, i64 3
  %first = icmp eq i64 %worker, 0
  %clock = select i1 %first, ptr %call.clock, ptr null
  %failure = getelementptr %Failure, ptr %call.failures, i64 %worker
  %image.at = getelementptr %Failure, ptr %failure, i64 0, i32 4
  %offset = mul i64 %stride, %worker
  %bases.at = getelementptr %Call, ptr %own, i64 0, i32 1
  %failures.at = getelementptr %Call, ptr %own, i64 0, i32 2
  %clock.at = getelementptr %Call, ptr %own, i64 0, i32 3
  %failed.at = getelementptr %Call, ptr %own, i64 0, i32 4
  store ptr %program, ptr %own
  store ptr %bases, ptr %bases.at
  store ptr %failure, ptr %failures.at
  store ptr %clock, ptr %clock.at
  store i64 -1, ptr %failed.at
  br label %next

next:
  %others.failed = load atomic i64, ptr %call.failed.at monotonic, align 8
  %sound = icmp eq i64 %others.failed, -1
  br i1 %sound, label %take, label %done

take:
  %image = atomicrmw add ptr %taken.at, i64 1 monotonic
  %left = icmp ult i64 %image, %apart
  br i1 %left, label %compute, label %done

compute:
  call void @llvm.memcpy.p0.p0.i64(ptr %bases, ptr %call.bases, i64 %nbytes, i1 false)
  %arena = load i64, ptr %arena.slot
  %scratch = load i64, ptr %scratch.slot
  %arena.own = add i64 %arena, %offset
  %scratch.own = add i64 %scratch, %offset
  store i64 %arena.own, ptr %arena.slot
  store i64 %scratch.own, ptr %scratch.slot
  call void @move(ptr %program, ptr %tensor.slots, i64 %n, i64 %image)
  call void @dispatch(ptr %own, ptr null)
  %failed = load i64, ptr %failed.at
  %fine = icmp eq i64 %failed, -1
  br i1 %fine, label %next, label %failed.here

failed.here:
  store i64 %image, ptr %image.at
  atomicrmw umin ptr %call.failed.at, i64 %failed seq_cst
  br label %done

done:
  call void @meet(ptr %team, i64 %workers)
  ret void
}

; Computes the first images of a call, each on one worker of the team, and returns how many; none where there is no team, it is busy, or they do
; not share out.
define internal i64 @dispatch_images(ptr %call, ptr %team) {
entry:
  %program = load ptr, ptr %call
  %apart.at = getelementptr %Program, ptr %program, i64 0, i32 10
  %crew.at = getelementptr %Program, ptr %program, i64 0, i32 11
  %flags.at = getelementptr %Program, ptr %program, i64 0, i32 12
  %apart = load i64, ptr %apart.at
  %wanted = load i64, ptr %crew.at
  %flags = load i64, ptr %flags.at
  %nobody = icmp eq ptr %team, null
  %nothing = icmp eq i64 %apart, 0
  %no = or i1 %nobody, %nothing
  br i1 %no, label %none, label %claim

claim:
  %claimed = cmpxchg ptr %team, i64 0, i64 1 acquire monotonic
  %won = extractvalue { i64, i1 } %claimed, 1
  br i1 %won, label %together, label %none

none:
  ret i64 0

together:
  %crew = call i64 @gather(ptr %team, ptr %call, i64 -1, i64 %wanted, i64 %flags)
  call void @compute_images(ptr %call, i64 0, i64 %crew, ptr %team)
  store atomic i64 0, ptr %team release, align 8
  ret i64 %apart
}

; Whether a failure comes before another: its image, else its step, else its share. What has not failed comes last.
define internal i1 @is_before(ptr %a, ptr %b) {
entry:
  %a.share.at = getelementptr %Failure, ptr %a, i64 0, i32 3
  %b.share.at = getelementptr %Failure, ptr %b, i64 0, i32 3
  %a.image.at = getelementptr %Failure, ptr %a, i64 0, i32 4
  %b.image.at = getelementptr %Failure, ptr %b, i64 0, i32 4
  %a.step = load i64, ptr %a
  %b.step = load i64, ptr %b
  %a.share = load i64, ptr %a.share.at
  %b.share = load i64, ptr %b.share.at
  %a.image = load i64, ptr %a.image.at
  %b.image = load i64, ptr %b.image.at
  %image.before = icmp ult i64 %a.image, %b.image
  %image.same = icmp eq i64 %a.image, %b.image
  %step.before = icmp ult i64 %a.step, %b.step
  %step.same = icmp eq i64 %a.step, %b.step
  %share.before = icmp ult i64 %a.share, %b.share
  %by.share = and i1 %step.same, %share.before
  %in.image = or i1 %step.before, %by.share
  %by.step = and i1 %image.same, %in.image
  %before = or i1 %image.before, %by.step
  ret i1 %before
}

; Runs `program` on `tensors` (addresses of its inputs, then of its outputs) in `memory` (arena and scratch), on `team` or, where that is
; null, on this thread. Returns the number of the first step that failed, and what it said in `failure`; -1 when none failed.
define i64 @loopnest_run(ptr %program, ptr %tensors, ptr %memory, ptr %team, ptr %clock, ptr %failure) {
entry:
  %call = alloca %Call
  %alone = icmp eq ptr %team, null
  br i1 %alone, label %prepare, label %count

count:
  %workers.at = getelementptr %Team, ptr %team, i64 0, i32 2
  %team.workers = load i64, ptr %workers.at
  br label %prepare

prepare:
  %workers = phi i64 [ 1, %entry ], [ %team.workers, %count ]
  %scratch.at = getelementptr %Program, ptr %program, i64 0, i32 5
  %n.at = getelementptr %Program, ptr %program, i64 0, i32 7
  %scratch.offset = load i64, ptr %scratch.at
  %n = load i64, ptr %n.at
  %count.bases = add i64 %n, 3
  %bases = alloca i64, i64 %count.bases
  %failures = alloca %Failure, i64 %workers
  %arena.slot = getelementptr i64, ptr %bases, i64 1
  %scratch.slot = getelementptr i64, ptr %bases, i64 2
  %tensor.slots = getelementptr i64, ptr %bases, i64 3
  %nbytes = mul i64 %n, 8
  %arena = ptrtoint ptr %memory to i64
  %scratch = add i64 %arena, %scratch.offset
  store i64 0, ptr %bases
  store i64 %arena, ptr %arena.slot
  store i64 %scratch, ptr %scratch.slot
  call void @llvm.memcpy.p0.p0.i64(ptr %tensor.slots, ptr %tensors, i64 %nbytes, i1 false)
  %bases.at = getelementptr %Call, ptr %call, i64 0, i32 1
  %failures.at = getelementptr %Call, ptr %call, i64 0, i32 2
  %clock.at = getelementptr %Call, ptr %call, i64 0, i32 3
  %failed.at = getelementptr %Call, ptr %call, i64 0, i32 4
  %taken.at = getelementptr %Call, ptr %call, i64 0, i32 5
  store ptr %program, ptr %call
  store ptr %bases, ptr %bases.at
  store ptr %failures, ptr %failures.at
  store ptr %clock, ptr %clock.at
  store i64 -1, ptr %failed.at
  store i64 0, ptr %taken.at
  %record.nbytes = mul i64 %workers, 40
  call void @llvm.memset.p0.i64(ptr %failures, i8 -1, i64 %record.nbytes, i1 false)
  %images.at = getelementptr %Program, ptr %program, i64 0, i32 8
  %images = load i64, ptr %images.at
  %computed = call i64 @dispatch_images(ptr %call, ptr %team)
  call void @move(ptr %program, ptr %tensor.slots, i64 %n, i64 %computed)
  br label %judge

judge:
  %number = phi i64 [ %computed, %prepare ], [ %number.next, %image ]
  %failed = load atomic i64, ptr %failed.at monotonic, align 8
  %fine = icmp eq i64 %failed, -1
  %left = icmp ult i64 %number, %images
  br i1 %fine, label %look, label %search

look:
  br i1 %left, label %image, label %done

image:
  %number.next = add i64 %number, 1
  call void @dispatch(ptr %call, ptr %team)
  call void @move(ptr %program, ptr %tensor.slots, i64 %n, i64 1)
  br label %judge

search:  ; the first image, then the first step, then the first share
  %w = phi i64 [ 1, %judge ], [ %w.next, %compare ]
  %first = phi ptr [ %failures, %judge ], [ %first.next, %compare ]
  %more = icmp ult i64 %w, %workers
  br i1 %more, label %compare, label %report

compare:
  %w.next = add i64 %w, 1
  %record = getelementptr %Failure, ptr %failures, i64 %w
  %before = call i1 @is_before(ptr %record, ptr %first)
  %first.next = select i1 %before, ptr %record, ptr %first
  br label %search

report:
  %step = load i64, ptr %first
  call void @llvm.memcpy.p0.p0.i64(ptr %failure, ptr %first, i64 24, i1 false)
  ret i64 %step

done:
  ret i64 -1
}

; Prepares zeroed memory as a team.
define void @loopnest_team_init(ptr %team, i64 %workers, i64 %idle, i64 %patience) {
entry:
  %workers.at = getelementptr %Team, ptr %team, i64 0, i32 2
  %barrier = getelementptr %Team, ptr %team, i64 0, i32 7
  store i64 %workers, ptr %workers.at
  call void @gate_init(ptr %barrier, i64 %patience)
  br label %next

next:
  %w = phi i64 [ 0, %entry ], [ %w.next, %prepare ]
  %w.next = add i64 %w, 1
  %more = icmp ult i64 %w.next, %workers
  br i1 %more, label %prepare, label %done

prepare:
  %member = getelementptr %Team, ptr %team, i64 0, i32 8, i64 %w.next
  call void @gate_init(ptr %member, i64 %idle)
  br label %next

done:
  ret void
}

; The life of worker thread `worker` > 0: returns when the team is stopped.
define void @loopnest_team_work(ptr %team, i64 %worker) {
entry:
  %member = getelementptr %Team, ptr %team, i64 0, i32 8, i64 %worker
  %call.at = getelementptr %Team, ptr %team, i64 0, i32 3
  %rank.at = getelementptr %Member, ptr %member, i64 0, i32 1
  %crew.at = getelementptr %Member, ptr %member, i64 0, i32 2
  %step.at = getelementptr %Member, ptr %member, i64 0, i32 3
  br label %idle

idle:
  %seen = phi i64 [ 0, %entry ], [ %seen.next, %images ], [ %seen.next, %steps ]
  call void @gate_wait(ptr %member, i64 %seen)
  %seen.next = add i64 %seen, 1
  %call = load ptr, ptr %call.at
  %stop = icmp eq ptr %call, null
  br i1 %stop, label %done, label %work

work:
  %rank = load i64, ptr %rank.at
  %crew = load i64, ptr %crew.at
  %from = load i64, ptr %step.at
  %apart = icmp eq i64 %from, -1
  br i1 %apart, label %images, label %steps

images:
  call void @compute_images(ptr %call, i64 %rank, i64 %crew, ptr %team)
  br label %idle

steps:
  %program = load ptr, ptr %call
  %first = load ptr, ptr %program
  %to.at = getelementptr %Step, ptr %first, i64 %from, i32 6
  %to = load i64, ptr %to.at
  call void @walk(ptr %call, i64 %from, i64 %to, i64 %rank, i64 %crew, ptr %team)
  br label %idle

done:
  ret void
}

; Tells the workers to end, and leaves the team busy for good. Returns 0 when the team is busy: try again.
define i64 @loopnest_team_stop(ptr %team) {
entry:
  %claimed = cmpxchg ptr %team, i64 0, i64 1 acquire monotonic
  %won = extractvalue { i64, i1 } %claimed, 1
  br i1 %won, label %stop, label %busy

stop:
  %call.at = getelementptr %Team, ptr %team, i64 0, i32 3
  %workers.at = getelementptr %Team, ptr %team, i64 0, i32 2
  %workers = load i64, ptr %workers.at
  store ptr null, ptr %call.at
  br label %next

next:
  %w = phi i64 [ 0, %stop ], [ %w.next, %tell ]
  %w.next = add i64 %w, 1
  %more = icmp ult i64 %w.next, %workers
  br i1 %more, label %tell, label %done

tell:
  %member = getelementptr %Team, ptr %team, i64 0, i32 8, i64 %w.next
  call void @gate_open(ptr %member)
  br label %next

done:
  ret i64 1

busy:
  ret i64 0
}

define i64 @loopnest_team_nbytes(i64 %workers) {
  %end = getelementptr %Team, ptr null, i64 0, i32 8, i64 %workers
  %nbytes = ptrtoint ptr %end to i64
  ret i64 %nbytes
}
