; XXH64 with seed 0 of bytes at any address, for what is too large for SHA-256: as fast as memory is read. Part of the driver.
; Source: Collet, "XXH64 algorithm description" (xxHash specification 0.1.1), whose names of variables and primes are used.

define internal i64 @xxh64_round(i64 %acc, i64 %lane) alwaysinline {
  %product = mul i64 %lane, 14029467366897019727  ; PRIME64_2
  %sum = add i64 %acc, %product
  %rotated = call i64 @llvm.fshl.i64(i64 %sum, i64 %sum, i64 31)
  %result = mul i64 %rotated, 11400714785074694791  ; PRIME64_1
  ret i64 %result
}

define internal i64 @xxh64_lane(i64 %acc, ptr %data, i64 %at) alwaysinline {
  %place = getelementptr i8, ptr %data, i64 %at
  %lane = load i64, ptr %place, align 1
  %result = call i64 @xxh64_round(i64 %acc, i64 %lane)
  ret i64 %result
}

define internal i64 @xxh64_merge(i64 %acc, i64 %value) alwaysinline {
  %round = call i64 @xxh64_round(i64 0, i64 %value)
  %mixed = xor i64 %acc, %round
  %product = mul i64 %mixed, 11400714785074694791  ; PRIME64_1
  %result = add i64 %product, 9650029242287828579  ; PRIME64_4
  ret i64 %result
}

; One step for what is left after whole stripes: rotl(acc ^ value, by) * factor + term.
define internal i64 @xxh64_rest(i64 %acc, i64 %value, i64 %by, i64 %factor, i64 %term) alwaysinline {
  %mixed = xor i64 %acc, %value
  %rotated = call i64 @llvm.fshl.i64(i64 %mixed, i64 %mixed, i64 %by)
  %product = mul i64 %rotated, %factor
  %result = add i64 %product, %term
  ret i64 %result
}

define internal i64 @xxh64_avalanche(i64 %acc) alwaysinline {
  %a = lshr i64 %acc, 33
  %b = xor i64 %acc, %a
  %c = mul i64 %b, 14029467366897019727  ; PRIME64_2
  %d = lshr i64 %c, 29
  %e = xor i64 %c, %d
  %f = mul i64 %e, 1609587929392839161  ; PRIME64_3
  %g = lshr i64 %f, 32
  %h = xor i64 %f, %g
  ret i64 %h
}

define i64 @loopnest_checksum(ptr %data, i64 %n) {
start:
  %stripes_end = and i64 %n, -32
  %any = icmp ne i64 %stripes_end, 0
  br i1 %any, label %stripe, label %rest

stripe:
  %at = phi i64 [ 0, %start ], [ %next, %stripe ]
  %v1 = phi i64 [ 6983438078262162902, %start ], [ %w1, %stripe ]  ; PRIME64_1 + PRIME64_2
  %v2 = phi i64 [ 14029467366897019727, %start ], [ %w2, %stripe ]  ; PRIME64_2
  %v3 = phi i64 [ 0, %start ], [ %w3, %stripe ]
  %v4 = phi i64 [ 7046029288634856825, %start ], [ %w4, %stripe ]  ; -PRIME64_1
  %p1 = getelementptr i8, ptr %data, i64 %at
  %p2 = getelementptr i8, ptr %p1, i64 8
  %p3 = getelementptr i8, ptr %p1, i64 16
  %p4 = getelementptr i8, ptr %p1, i64 24
  %l1 = load i64, ptr %p1, align 1
  %l2 = load i64, ptr %p2, align 1
  %l3 = load i64, ptr %p3, align 1
  %l4 = load i64, ptr %p4, align 1
  %a1 = mul i64 %l1, 14029467366897019727
  %a2 = mul i64 %l2, 14029467366897019727
  %a3 = mul i64 %l3, 14029467366897019727
  %a4 = mul i64 %l4, 14029467366897019727
  %b1 = add i64 %v1, %a1
  %b2 = add i64 %v2, %a2
  %b3 = add i64 %v3, %a3
  %b4 = add i64 %v4, %a4
  %c1 = call i64 @llvm.fshl.i64(i64 %b1, i64 %b1, i64 31)
  %c2 = call i64 @llvm.fshl.i64(i64 %b2, i64 %b2, i64 31)
  %c3 = call i64 @llvm.fshl.i64(i64 %b3, i64 %b3, i64 31)
  %c4 = call i64 @llvm.fshl.i64(i64 %b4, i64 %b4, i64 31)
  %w1 = mul i64 %c1, 11400714785074694791
  %w2 = mul i64 %c2, 11400714785074694791
  %w3 = mul i64 %c3, 11400714785074694791
  %w4 = mul i64 %c4, 11400714785074694791
  %next = add i64 %at, 32
  %more = icmp ult i64 %next, %stripes_end
  br i1 %more, label %stripe, label %merge

merge:
  %r1 = call i64 @llvm.fshl.i64(i64 %w1, i64 %w1, i64 1)
  %r2 = call i64 @llvm.fshl.i64(i64 %w2, i64 %w2, i64 7)
  %r3 = call i64 @llvm.fshl.i64(i64 %w3, i64 %w3, i64 12)
  %r4 = call i64 @llvm.fshl.i64(i64 %w4, i64 %w4, i64 18)
  %r12 = add i64 %r1, %r2
  %r34 = add i64 %r3, %r4
  %joined = add i64 %r12, %r34
  %m1 = call i64 @xxh64_merge(i64 %joined, i64 %w1)
  %m2 = call i64 @xxh64_merge(i64 %m1, i64 %w2)
  %m3 = call i64 @xxh64_merge(i64 %m2, i64 %w3)
  %m4 = call i64 @xxh64_merge(i64 %m3, i64 %w4)
  br label %rest

rest:
  %unsized = phi i64 [ 2870177450012600261, %start ], [ %m4, %merge ]  ; PRIME64_5
  %sized = add i64 %unsized, %n
  br label %words

words:
  %word_at = phi i64 [ %stripes_end, %rest ], [ %word_end, %word ]
  %word_acc = phi i64 [ %sized, %rest ], [ %word_next, %word ]
  %word_end = add i64 %word_at, 8
  %word_fits = icmp ule i64 %word_end, %n
  br i1 %word_fits, label %word, label %half

word:
  %word_round = call i64 @xxh64_lane(i64 0, ptr %data, i64 %word_at)
  %word_next = call i64 @xxh64_rest(i64 %word_acc, i64 %word_round, i64 27, i64 11400714785074694791, i64 9650029242287828579)
  br label %words

half:
  %half_end = add i64 %word_at, 4
  %half_fits = icmp ule i64 %half_end, %n
  br i1 %half_fits, label %take_half, label %bytes

take_half:
  %half_place = getelementptr i8, ptr %data, i64 %word_at
  %half_raw = load i32, ptr %half_place, align 1
  %half_value = zext i32 %half_raw to i64
  %half_product = mul i64 %half_value, 11400714785074694791
  %half_next = call i64 @xxh64_rest(i64 %word_acc, i64 %half_product, i64 23, i64 14029467366897019727, i64 1609587929392839161)
  br label %bytes

bytes:
  %bytes_at = phi i64 [ %word_at, %half ], [ %half_end, %take_half ]
  %bytes_acc = phi i64 [ %word_acc, %half ], [ %half_next, %take_half ]
  br label %byte

byte:
  %byte_at = phi i64 [ %bytes_at, %bytes ], [ %byte_end, %take_byte ]
  %byte_acc = phi i64 [ %bytes_acc, %bytes ], [ %byte_next, %take_byte ]
  %byte_left = icmp ult i64 %byte_at, %n
  br i1 %byte_left, label %take_byte, label %end

take_byte:
  %byte_place = getelementptr i8, ptr %data, i64 %byte_at
  %byte_raw = load i8, ptr %byte_place
  %byte_value = zext i8 %byte_raw to i64
  %byte_product = mul i64 %byte_value, 2870177450012600261
  %byte_next = call i64 @xxh64_rest(i64 %byte_acc, i64 %byte_product, i64 11, i64 11400714785074694791, i64 0)
  %byte_end = add i64 %byte_at, 1
  br label %byte

end:
  %result = call i64 @xxh64_avalanche(i64 %byte_acc)
  ret i64 %result
}

; The checksums of many pieces. A row of the table says where a piece is and how long it is, and gets its checksum. Any number of threads
; may be at it: each takes the next row, by counting it in %next.
define void @loopnest_checksums(ptr %table, i64 %rows, ptr %next) {
start:
  br label %take

take:
  %row = atomicrmw add ptr %next, i64 1 monotonic
  %left = icmp ult i64 %row, %rows
  br i1 %left, label %piece, label %end

piece:
  %place = getelementptr [3 x i64], ptr %table, i64 %row
  %nbytes_place = getelementptr i64, ptr %place, i64 1
  %result_place = getelementptr i64, ptr %place, i64 2
  %data = load ptr, ptr %place
  %nbytes = load i64, ptr %nbytes_place
  %result = call i64 @loopnest_checksum(ptr %data, i64 %nbytes)
  store i64 %result, ptr %result_place
  br label %take

end:
  ret void
}

declare i64 @llvm.fshl.i64(i64, i64, i64)
