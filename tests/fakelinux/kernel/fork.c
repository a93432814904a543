const char stamp[] = STAMP;

int fork(void)
{
	return 0;
}
